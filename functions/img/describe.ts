import * as z from "zod";
import { signedIn } from "../../lib/access.ts";
import { describeImage } from "../../lib/chat/describe.ts";
import { ReplyView, replyView } from "../../lib/chat/turn.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { IMAGE_BODY_BYTES, IMAGE_ERRORS, imageFields } from "./fields.ts";

export const describe = endpoint({
  name: "img.describe",
  summary: "Ask about an image, in no chat",
  route: "POST /img",
  access: signedIn,
  input: z.object(imageFields),
  output: ReplyView,
  errors: IMAGE_ERRORS,
  bodyLimit: IMAGE_BODY_BYTES,
  run: async ({ input: { content, url, model }, deps, reply }) =>
    replyView(await describeImage(deps, { prompt: content, image: url, model }, reply)),
});
