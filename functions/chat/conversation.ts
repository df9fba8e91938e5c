import * as z from "zod";
import { chatMember } from "../../lib/access.ts";
import { readPage } from "../../lib/chat/history.ts";
import { imageAddress } from "../../lib/chat/turn.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { chatName, digits, whole } from "../../lib/http/fields.ts";
import type { MessageView } from "../../lib/repo/messages.ts";

const TurnView = z.object({
  content: z.string(),
  role: z.enum(["user", "assistant"]),
  /** The address of the image that was asked about. */
  url: z.string().optional(),
});

export const conversation = endpoint({
  name: "chat.conversation",
  summary: "List what was said in a chat, the newest last; a `Link` header says where what came before is, if that is too much",
  route: "GET /chat/:chat_id/chat",
  bare: true,
  access: chatMember,
  input: z.object({ chat_id: chatName, cursor: digits.optional(), limit: whole(1, 1_000).default(1_000) }),
  output: z.array(TurnView),
  errors: ["not_found"],
  // What was said is in the events of those who said it, unless it was off the record.
  audit: "row",
  run: async ({ grant: { chat }, input: { cursor, limit }, deps, reply }) => {
    const { messages, next } = await readPage(deps, chat.id, cursor, limit);
    if (messages.length === 0) throw new ApiError("not_found", { message: "Nothing was said in this chat." });
    if (next !== null) reply.next(String(next));
    return messages.flatMap(turnsOf);
  },
});

/** A prompt, and its reply as far as there is one. */
function turnsOf(message: MessageView): z.input<typeof TurnView>[] {
  const url = imageAddress(message);
  const prompt = { content: message.prompt, role: "user" as const, ...(url !== null && { url }) };
  return message.reply === "" ? [prompt] : [prompt, { content: message.reply, role: "assistant" }];
}
