import * as z from "zod";
import { chatMember } from "../../lib/access.ts";
import { readPage } from "../../lib/chat/history.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { digits, whole } from "../../lib/http/fields.ts";
import * as chats from "../../lib/repo/chats.ts";
import { ChatView, chatView, MessageView, messageView, ofChat, ParticipantsView, participantsView } from "./views.ts";

export const read = endpoint({
  name: "chat.read",
  summary: "Read a chat: the newest messages, in their order, then those before `next`; and who sees it",
  route: "GET|POST /chat/read",
  access: chatMember,
  input: z.object({ ...ofChat, cursor: digits.optional(), limit: whole(1, 1_000).default(100) }),
  output: z.object({
    chat: ChatView,
    messages: z.array(MessageView),
    users: ParticipantsView,
    next: z.string().nullable(),
  }),
  errors: ["not_found"],
  // What was said is in the events of those who said it, unless it was off the record.
  audit: "row",
  run: async ({ grant: { chat }, input: { cursor, limit }, deps }) => {
    const [page, users] = await Promise.all([readPage(deps, chat.id, cursor, limit), chats.participants(deps.store, chat.id)]);
    return {
      chat: chatView(chat),
      messages: page.messages.map(messageView),
      users: participantsView(users),
      next: page.next === null ? null : String(page.next),
    };
  },
});
