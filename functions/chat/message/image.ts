import * as z from "zod";
import { messageMember } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError } from "../../../lib/http/error.ts";
import { id } from "../../../lib/http/fields.ts";
import { inlineOf, isInline } from "../../../lib/repo/images.ts";
import * as messages from "../../../lib/repo/messages.ts";

export const readImage = endpoint({
  name: "chat.message.image",
  summary: "The image of a message, as the address that it was given with",
  route: "GET|POST /chat/message/image",
  access: messageMember,
  input: z.object({ id }),
  output: z.object({ url: z.string() }),
  errors: ["not_found"],
  audit: "row",
  run: async ({ grant: { chat, messageId }, deps: { store } }) => {
    const image = (await messages.find(store, { id: messageId, chatId: chat.id }))?.image ?? null;
    const url = image !== null && isInline(image) ? (await inlineOf(store, [messageId])).get(messageId) : image;
    if (!url) throw new ApiError("not_found", { message: "This message has no image." });
    return { url };
  },
});
