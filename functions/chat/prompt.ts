import * as z from "zod";
import { prompter } from "../../lib/access.ts";
import { answerPrompt, ReplyFailed } from "../../lib/chat/answer.ts";
import { Echo } from "../../lib/chat/echo.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { id, whole } from "../../lib/http/fields.ts";
import { MessageView, messageView, model, ofChat, PROMPT_BYTES, prompt } from "./views.ts";

const MOST_CONTEXT = 50;

const input = z.object({
  ...ofChat,
  prompt,
  /** How many earlier prompts with their replies go with it. */
  context: whole(0, MOST_CONTEXT).optional(),
  model: model.optional(),
  /** Whether those who watch get the reply as it comes. */
  stream: z.boolean().default(false),
  otr: z.boolean().default(false),
  message_id: id.optional(),
});

export const promptChat = endpoint({
  name: "chat.prompt",
  summary: "Prompt the model in a chat, and get its reply; or say something off the record",
  route: "POST /chat/prompt",
  access: prompter((it: z.output<typeof input>) => ({
    chatId: it.id,
    prompt: it.prompt,
    model: it.model,
    offTheRecord: it.otr,
    context: it.context,
    messageId: it.message_id,
  })),
  input,
  output: z.object({ reply: z.string(), message: MessageView }),
  errors: ["not_found", "message_id_taken", "idempotency_mismatch", "upstream_refused", "upstream_busy", "upstream_timeout"],
  bodyLimit: PROMPT_BYTES,
  offTheRecord: ({ otr }) => otr,
  streams: true,
  run: async ({ grant: { claimed }, input: { stream }, deps, reply }) => {
    const echo = reply.stream && new Echo(reply.stream, claimed.message);
    const { message } = await answerPrompt(deps, {
      claimed,
      partial: stream || echo !== null,
      account: reply.account,
      ...(echo && { onText: (text) => echo.add(text) }),
    }).catch(async (error) => {
      if (error instanceof ReplyFailed) await echo?.end(error.reply);
      throw error;
    });
    await echo?.end(message);
    return { reply: message.reply, message: messageView(message) };
  },
});
