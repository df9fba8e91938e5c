import * as z from "zod";
import { chatOrMessageMember } from "../../lib/access.ts";
import { stopReplies, whenStopped } from "../../lib/chat/stop.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { id } from "../../lib/http/fields.ts";
import { MessageView, messageView, ofChat } from "./views.ts";

export const stop = endpoint({
  name: "chat.stop",
  summary: "Stop the replies that are being made in a chat, or one of them; what came of them is kept",
  route: "POST /chat/stop",
  access: chatOrMessageMember,
  /** `id` is a chat's, or a message's. */
  input: z.object({ ...ofChat, message_id: id.optional() }),
  output: z.object({ messages: z.array(MessageView) }),
  errors: ["not_found"],
  run: async ({ grant: { caller, chat, messageId }, input, deps }) => {
    const replies = await stopReplies(deps, chat.id, messageId ?? input.message_id, caller.userId);
    const ids = replies.map(({ id }) => id);
    return { messages: (await whenStopped(deps, chat.id, ids)).map(messageView) };
  },
});
