import * as z from "zod";
import { groupOwner } from "../../lib/access.ts";
import { MOST_TOLD } from "../../lib/chat/announce.ts";
import { tellDeleted } from "../../lib/chat/deleted.ts";
import { tellToStop } from "../../lib/chat/stop.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { id, nothing } from "../../lib/http/fields.ts";
import { latestOfGroup } from "../../lib/repo/chat-list.ts";
import * as groups from "../../lib/repo/groups.ts";
import * as messages from "../../lib/repo/messages.ts";

export const remove = endpoint({
  name: "group.delete",
  summary: "Delete a group with all of its chats; replies that are being made in them are stopped",
  route: "POST /group/delete",
  access: groupOwner,
  input: z.object({ id }),
  output: nothing,
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, group }, deps }) => {
    const { store, membership } = deps;
    const [running, chats, members] = await Promise.all([
      messages.runningInGroup(store, group.id),
      latestOfGroup(store, group.id, MOST_TOLD),
      groups.members(store, group.id),
    ]);
    const seenBy = members.map(({ id }) => id);
    if (!(await groups.remove(store, group.id, caller.userId))) throw new ApiError("not_found");
    const runningIn = (chatId: string) => running.filter((reply) => reply.chatId === chatId);
    const others = running.filter(({ chatId }) => !chats.some(({ id }) => id === chatId));
    await Promise.all([
      ...chats.map((chat) => tellDeleted(deps, { chat, running: runningIn(chat.id), seenBy }, caller.userId)),
      ...others.map((reply) => tellToStop(deps, reply.chatId, [reply], caller.userId)),
    ]);
    membership.check();
    return {};
  },
});
