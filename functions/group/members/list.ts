import * as z from "zod";
import { groupMember } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { id } from "../../../lib/http/fields.ts";
import * as groups from "../../../lib/repo/groups.ts";
import { MembersView, membersView } from "../views.ts";

export const listMembers = endpoint({
  name: "group.members",
  summary: "List the members of a group, owners first",
  route: "GET|POST /group/members",
  access: groupMember,
  input: z.object({ group_id: id.optional(), id: id.optional() }),
  output: MembersView,
  errors: ["not_found"],
  run: async ({ grant, deps: { store } }) => membersView(await groups.members(store, grant.group.id)),
});
