import * as z from "zod";
import { chatOwnerOrLeaving } from "../../../lib/access.ts";
import { announce } from "../../../lib/chat/announce.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError } from "../../../lib/http/error.ts";
import { chatName, people } from "../../../lib/http/fields.ts";
import * as chats from "../../../lib/repo/chats.ts";
import { ParticipantsView, participantsView } from "../views.ts";

export const removeUsers = endpoint({
  name: "chat.user.remove",
  summary: "Let people take part in a chat no more; anyone may leave",
  route: "POST /chat/user/remove",
  access: chatOwnerOrLeaving,
  input: z.object({ chat_id: chatName, ...people }),
  output: z.object({ users: ParticipantsView }),
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, chat, userIds }, deps }) => {
    const removed = await chats.removeUsers(deps.store, chat.id, userIds, caller.userId);
    if (removed.length === 0) throw new ApiError("not_found");
    await announce(deps, chat.id, { t: "member", added: [], removed });
    return { users: participantsView(await chats.participants(deps.store, chat.id)) };
  },
});
