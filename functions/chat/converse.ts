import * as z from "zod";
import { prompter } from "../../lib/access.ts";
import { answerEchoed } from "../../lib/chat/echo.ts";
import { worded } from "../../lib/chat/template.ts";
import { ReplyView, replyView } from "../../lib/chat/turn.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { chatName, id, PROMPT_BYTES, prompt, templated } from "../../lib/http/fields.ts";
import { PROMPT_ERRORS, promptOptions } from "./views.ts";

const input = z.object({
  chat_id: chatName,
  content: prompt.optional(),
  ...templated,
  ...promptOptions,
  message_id: id.optional(),
});

export const converse = endpoint({
  name: "chat.converse",
  summary: "Say something in a chat, and get the reply; one of my own is made with the first thing that is said in it",
  route: "POST /chat/:chat_id/chat",
  bare: true,
  access: prompter((it: z.output<typeof input>) => ({
    chat: it.chat_id,
    makes: true,
    prompt: worded(it.content, it, "content"),
    model: it.model,
    context: it.context,
    messageId: it.message_id,
  })),
  input,
  output: ReplyView,
  errors: PROMPT_ERRORS,
  bodyLimit: PROMPT_BYTES,
  streams: true,
  run: async ({ grant: { claimed }, input: { stream }, deps, reply }) =>
    replyView(await answerEchoed(deps, claimed, stream, reply)),
});
