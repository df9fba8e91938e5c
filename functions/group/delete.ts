import * as z from "zod";
import { groupOwner } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { id, nothing } from "../../lib/http/fields.ts";
import * as groups from "../../lib/repo/groups.ts";

export const remove = endpoint({
  name: "group.delete",
  summary: "Delete a group with all of its chats",
  route: "POST /group/delete",
  access: groupOwner,
  input: z.object({ id }),
  output: nothing,
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, group }, deps }) => {
    if (!(await groups.remove(deps.store, group.id, caller.userId))) throw new ApiError("not_found");
    deps.membership.check();
    return {};
  },
});
