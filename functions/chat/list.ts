import * as z from "zod";
import { signedIn } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { id, instant, whole } from "../../lib/http/fields.ts";
import * as chatList from "../../lib/repo/chat-list.ts";
import { ChatView, chatView, MessageView, messageView } from "./views.ts";

const ListedChat = ChatView.extend({
  last_message: MessageView.nullable(),
  /** Messages of others since `after`, 1,000 at most; null where it is not asked. */
  unread: z.int().nullable(),
});

/** Where a page ends: the instant of its last chat's change, and that chat. */
const cursor = z
  .string()
  .regex(/^\d{1,15}_[0-9a-f-]{36}$/, "is not a cursor")
  .transform((text) => ({ updatedAt: new Date(Number(text.split("_", 1)[0])), id: text.slice(text.indexOf("_") + 1) }));
const cursorOf = ({ id, updatedAt }: chatList.ListedChat) => `${updatedAt.getTime()}_${id}`;

export const listChats = endpoint({
  name: "chat.index",
  summary: "List the chats that I see, the last changed first: all, those of a group, those that changed after an instant",
  route: "GET|POST /chat/index",
  access: signedIn,
  input: z.object({
    group_id: id.optional(),
    after: instant.optional(),
    cursor: cursor.optional(),
    limit: whole(1, 1_000).default(100),
  }),
  output: z.object({ chats: z.array(ListedChat), next: z.string().nullable() }),
  // What was said is in the events of those who said it, unless it was off the record.
  audit: "row",
  run: async ({ grant: { caller }, input: { group_id: groupId, after, cursor, limit }, deps: { store } }) => {
    const found = await chatList.listForMember(store, caller.userId, { groupId, after, cursor, limit: limit + 1 });
    const page = found.slice(0, limit);
    const last = page.at(-1);
    return {
      chats: page.map((chat) => ({
        ...chatView(chat),
        last_message: chat.lastMessage && messageView(chat.lastMessage),
        unread: chat.unread,
      })),
      next: found.length > limit && last ? cursorOf(last) : null,
    };
  },
});
