import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { readOfChat } from "./chat/read.ts";
import { updateOfChat } from "./chat/update.ts";
import { listEvents } from "./events.ts";
import { read } from "./read.ts";
import { update } from "./update.ts";

/** The function `system`, as it is deployed. */
export const system = {
  name: "system",
  endpoints: [read, update, readOfChat, updateOfChat, listEvents],
} as const satisfies FunctionSpec;
