import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { createKey } from "./key/create.ts";
import { deleteKey } from "./key/delete.ts";
import { listKeys } from "./key/index.ts";
import { login } from "./login.ts";
import { logout } from "./logout.ts";
import { updatePassword } from "./password/update.ts";
import { read } from "./read.ts";
import { session } from "./session.ts";
import { signup } from "./signup.ts";
import { update } from "./update.ts";

/** The function `user`, as it is deployed. */
export const user = {
  name: "user",
  endpoints: [signup, login, logout, session, read, update, updatePassword, createKey, listKeys, deleteKey],
} as const satisfies FunctionSpec;
