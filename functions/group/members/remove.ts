import * as z from "zod";
import { groupOwnerOrLeaving } from "../../../lib/access.ts";
import { announceToGroup } from "../../../lib/chat/announce.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError } from "../../../lib/http/error.ts";
import { id, people } from "../../../lib/http/fields.ts";
import * as groups from "../../../lib/repo/groups.ts";
import { MembersView, membersView } from "../views.ts";

export const removeMembers = endpoint({
  name: "group.members.remove",
  summary: "Remove people from a group and its chats; anyone may remove themselves",
  route: "POST /group/members/remove",
  access: groupOwnerOrLeaving,
  input: z.object({ group_id: id, ...people }),
  output: MembersView,
  errors: ["forbidden", "not_found", "last_owner"],
  run: async ({ grant: { caller, group, userIds }, deps }) => {
    const { store, now, membership } = deps;
    const removed = await groups.removeMembers(store, group.id, userIds, new Date(now()), caller.userId);
    if (!removed) throw new ApiError("last_owner");
    membership.check();
    await announceToGroup(deps, group.id, { t: "member", added: [], removed: userIds });
    return membersView(await groups.members(store, group.id));
  },
});
