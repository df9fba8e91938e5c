import * as z from "zod";
import { prompter } from "../../lib/access.ts";
import { answerEchoed } from "../../lib/chat/echo.ts";
import { worded } from "../../lib/chat/template.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { id, PROMPT_BYTES, prompt, templated } from "../../lib/http/fields.ts";
import { MessageView, messageView, ofChat, PROMPT_ERRORS, promptOptions } from "./views.ts";

const input = z.object({
  ...ofChat,
  prompt: prompt.optional(),
  ...templated,
  ...promptOptions,
  otr: z.boolean().default(false),
  message_id: id.optional(),
});

export const promptChat = endpoint({
  name: "chat.prompt",
  summary: "Prompt the model in a chat, and get its reply; or say something off the record",
  route: "POST /chat/prompt",
  access: prompter((it: z.output<typeof input>) => ({
    chat: it.id,
    prompt: worded(it.prompt, it, "prompt"),
    model: it.model,
    offTheRecord: it.otr,
    context: it.context,
    messageId: it.message_id,
  })),
  input,
  output: z.object({ reply: z.string(), message: MessageView }),
  errors: PROMPT_ERRORS,
  bodyLimit: PROMPT_BYTES,
  offTheRecord: ({ otr }) => otr,
  streams: true,
  run: async ({ grant: { claimed }, input: { stream }, deps, reply }) => {
    const message = await answerEchoed(deps, claimed, stream, reply);
    return { reply: message.reply, message: messageView(message) };
  },
});
