import * as z from "zod";
import { groupOwner } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { id, label, paragraph } from "../../lib/http/fields.ts";
import * as groups from "../../lib/repo/groups.ts";
import { GroupView, groupView } from "./views.ts";

export const update = endpoint({
  name: "group.update",
  summary: "Rename a group, or describe it anew",
  route: "POST /group/update",
  access: groupOwner,
  input: z.object({ id, name: label.optional(), description: paragraph(2_000).optional() }),
  output: z.object({ group: GroupView }),
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, group }, input: { name, description }, deps: { store, now } }) => {
    const change = { ...(name !== undefined && { name }), ...(description !== undefined && { description }) };
    const updated = await groups.update(store, group.id, caller.userId, change, new Date(now()));
    if (!updated) throw new ApiError("not_found");
    return { group: groupView(updated) };
  },
});
