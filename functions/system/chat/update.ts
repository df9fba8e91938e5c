import * as z from "zod";
import { chatOwnerOrMaker } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError } from "../../../lib/http/error.ts";
import { chatName, nothing, PROMPT_BYTES } from "../../../lib/http/fields.ts";
import * as chats from "../../../lib/repo/chats.ts";
import { content } from "../views.ts";

export const updateOfChat = endpoint({
  name: "system.chat.update",
  summary: "Set the system prompt of a chat, or take it away with an empty one, so that the global one counts again",
  route: "POST /system/:chat_id/system",
  bare: true,
  access: chatOwnerOrMaker,
  input: z.object({ chat_id: chatName, content }),
  output: nothing,
  errors: ["forbidden", "not_found"],
  bodyLimit: PROMPT_BYTES,
  run: async ({ grant: { caller, chat }, input: { content }, deps: { store, now } }) => {
    const change = { systemPrompt: content || null };
    if (!(await chats.update(store, chat.id, caller.userId, change, new Date(now())))) throw new ApiError("not_found");
    return {};
  },
});
