import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { NEEDS } from "../../lib/needs.ts";
import { create } from "./create.ts";
import { remove } from "./delete.ts";
import { listGroups } from "./list.ts";
import { addMembers } from "./members/add.ts";
import { listMembers } from "./members/list.ts";
import { removeMembers } from "./members/remove.ts";
import { read } from "./read.ts";
import { update } from "./update.ts";

/** The function `group`, as it is deployed. */
export const group = {
  name: "group",
  endpoints: [create, read, update, remove, listGroups, listMembers, addMembers, removeMembers],
  needs: NEEDS.group,
} as const satisfies FunctionSpec;
