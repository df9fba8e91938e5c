import * as z from "zod";
import { groupOwner } from "../../../lib/access.ts";
import { existing } from "../../../lib/auth/people.ts";
import { announceToGroup } from "../../../lib/chat/announce.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { id, people } from "../../../lib/http/fields.ts";
import * as groups from "../../../lib/repo/groups.ts";
import { MembersView, membersView } from "../views.ts";

export const addMembers = endpoint({
  name: "group.members.add",
  summary: "Add people to a group, as members or as further owners",
  route: "POST /group/members/add",
  access: groupOwner,
  input: z.object({ group_id: id, ...people, role: z.enum(["owner", "member"]).default("member") }),
  output: MembersView,
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, group }, input, deps }) => {
    const { store, now } = deps;
    const userIds = await existing(store, input);
    const before = new Set((await groups.members(store, group.id)).map(({ id }) => id));
    await groups.addMembers(store, group.id, userIds, input.role, new Date(now()), caller.userId);
    const added = userIds.filter((id) => !before.has(id));
    if (added.length > 0) await announceToGroup(deps, group.id, { t: "member", added, removed: [] });
    return membersView(await groups.members(store, group.id));
  },
});
