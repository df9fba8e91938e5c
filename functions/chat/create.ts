import * as z from "zod";
import { maker } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { id, label, model } from "../../lib/http/fields.ts";
import * as chats from "../../lib/repo/chats.ts";
import { ChatView, chatView } from "./views.ts";

const DEFAULT_NAME = "New chat";

export const create = endpoint({
  name: "chat.create",
  summary: "Make a chat, of my own or in a group",
  route: "POST /chat/create",
  access: maker,
  input: z.object({ name: label.default(DEFAULT_NAME), model: model.optional(), group_id: id.optional() }),
  output: ChatView,
  errors: ["not_found"],
  run: async ({ grant: { caller, group }, input, deps: { store, config, now, newId }, reply }) => {
    const { name, model = config.chat.defaultModel } = input;
    const groupId = group?.id ?? null;
    const chat = { id: newId(), ownerId: caller.userId, groupId, name, model, createdAt: new Date(now()) };
    reply.concerns({ chatId: chat.id, ...(groupId !== null && { groupId }) });
    return chatView(await chats.create(store, chat));
  },
});
