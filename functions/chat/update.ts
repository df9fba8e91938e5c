import * as z from "zod";
import { chatOwner } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { label, model } from "../../lib/http/fields.ts";
import * as chats from "../../lib/repo/chats.ts";
import { ChatView, chatView, ofChat } from "./views.ts";

export const update = endpoint({
  name: "chat.update",
  summary: "Rename a chat, or give it another model",
  route: "POST /chat/update",
  access: chatOwner,
  input: z.object({ ...ofChat, name: label.optional(), model: model.optional() }),
  output: z.object({ chat: ChatView }),
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, chat }, input: { name, model }, deps: { store, now } }) => {
    const change = { ...(name !== undefined && { name }), ...(model !== undefined && { model }) };
    const updated = await chats.update(store, chat.id, caller.userId, change, new Date(now()));
    if (!updated) throw new ApiError("not_found");
    return { chat: chatView(updated) };
  },
});
