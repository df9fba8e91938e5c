import * as z from "zod";
import { prompter } from "../../lib/access.ts";
import { answerEchoed } from "../../lib/chat/echo.ts";
import { ReplyView, replyView } from "../../lib/chat/turn.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { chatName, id } from "../../lib/http/fields.ts";
import { IMAGE_BODY_BYTES, IMAGE_ERRORS, imageFields } from "./fields.ts";

const input = z.object({
  chat_id: chatName,
  ...imageFields,
  /** Whether those who watch get the reply as it comes. */
  stream: z.boolean().default(false),
  message_id: id.optional(),
});

export const converse = endpoint({
  name: "img.converse",
  summary: "Ask about an image in a chat, of whose memory it becomes a part",
  route: "POST /img/:chat_id/img",
  bare: true,
  access: prompter(({ chat_id, content, url, model, message_id }: z.output<typeof input>, { config }) => ({
    chat: chat_id,
    makes: true,
    prompt: content,
    image: url,
    model: model ?? config.chat.imageModel,
    messageId: message_id,
  })),
  input,
  output: ReplyView,
  errors: [...IMAGE_ERRORS, "not_found", "message_id_taken", "idempotency_mismatch"],
  bodyLimit: IMAGE_BODY_BYTES,
  streams: true,
  run: async ({ grant: { claimed }, input: { stream }, deps, reply }) =>
    replyView(await answerEchoed(deps, claimed, stream, reply)),
});
