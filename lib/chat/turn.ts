import * as z from "zod";
import { isInline } from "../repo/images.ts";
import type { MessageView } from "../repo/messages.ts";

/** A reply as the client-chosen API answers it. `flagged`: what moderation flagged the prompt for, where it did. */
export const ReplyView = z.object({
  content: z.string(),
  role: z.literal("assistant"),
  tokens: z.object({ completion_tokens: z.int(), prompt_tokens: z.int(), total_tokens: z.int() }),
  flagged: z.array(z.string()).optional(),
});
type Replied = Pick<MessageView, "reply" | "promptTokens" | "completionTokens" | "flagged">;

export function replyView({ reply, promptTokens, completionTokens, flagged }: Replied): z.input<typeof ReplyView> {
  const [prompt, completion] = [promptTokens ?? 0, completionTokens ?? 0];
  return {
    content: reply,
    role: "assistant",
    tokens: { completion_tokens: completion, prompt_tokens: prompt, total_tokens: prompt + completion },
    ...(flagged !== null && { flagged: flagged.split(",") }),
  };
}

/** Where the image of a message is; null where it has none. */
export const imageAddress = ({ id, image }: Pick<MessageView, "id" | "image">): string | null =>
  image !== null && isInline(image) ? `/chat/message/image?id=${id}` : image;
