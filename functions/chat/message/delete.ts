import * as z from "zod";
import { messageMember } from "../../../lib/access.ts";
import { announce } from "../../../lib/chat/announce.ts";
import { tellToStop } from "../../../lib/chat/stop.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError, forbid } from "../../../lib/http/error.ts";
import { id, nothing } from "../../../lib/http/fields.ts";
import * as messages from "../../../lib/repo/messages.ts";

export const removeMessage = endpoint({
  name: "chat.message.delete",
  summary: "Delete a message of mine, or of a chat that I own; its prompt and reply are in no context any more",
  route: "POST /chat/message/delete",
  access: messageMember,
  input: z.object({ id }),
  output: nothing,
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, chat, messageId }, deps }) => {
    const key = { id: messageId, chatId: chat.id };
    const message = await messages.find(deps.store, key);
    if (message && ![message.userId, chat.ownerId].includes(caller.userId))
      forbid("Only its author and the owner of the chat may delete a message.");
    if (!message || !(await messages.remove(deps.store, key, caller.userId))) throw new ApiError("not_found");
    // A wish to stop outlives the message, and would stop another one that is given the same id.
    if (message.state === "streaming") await tellToStop(deps, chat.id, [message], caller.userId);
    await announce(deps, chat.id, { t: "deleted", id: messageId });
    return {};
  },
});
