import * as z from "zod";
import { chatOwnerIfAny } from "../../../lib/access.ts";
import { makeNamed } from "../../../lib/chat/own.ts";
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
  access: chatOwnerIfAny,
  input: z.object({ chat_id: chatName, content }),
  output: nothing,
  errors: ["forbidden", "not_found"],
  bodyLimit: PROMPT_BYTES,
  run: async ({ grant: { caller, chat }, input: { chat_id, content }, deps, reply }) => {
    const id = chat?.id ?? (await makeNamed(deps, chat_id, caller.userId));
    if (!chat) reply.concerns({ chatId: id });
    const changed = await chats.update(deps.store, id, caller.userId, { systemPrompt: content || null }, new Date(deps.now()));
    if (!changed) throw new ApiError("not_found");
    return {};
  },
});
