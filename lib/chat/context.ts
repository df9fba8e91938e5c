import type { CompletionMessage as Turn } from "../llm/completion.ts";
import { estimateTokens } from "../llm/tokens.ts";
import type { Pair } from "../repo/claims.ts";

/** What each message costs besides its text, as OpenAI counts them. */
const PER_MESSAGE = 4;
/** What an image costs about: OpenAI's count for one of 1,024 pixels a side. */
const PER_IMAGE = 765;

export type ContextParts = {
  systemPrompt: string | null;
  /** Earlier pairs, the newest first. The images of those that have one go with them. */
  pairs: readonly Pair[];
  prompt: string;
  image: string | null;
  username: string | null;
  /** Others read along, so that the model is told who says what. */
  shared: boolean;
  /** The most tokens of all of it, as estimated. The system prompt and the prompt are sent however long they are. */
  budget: number;
};

/** What the model is sent: the system prompt, as many earlier pairs as the budget allows, the oldest left out first, and the prompt. */
export function contextOf({ systemPrompt, pairs, prompt, image, username, shared, budget }: ContextParts): {
  turns: Turn[];
  tokens: number;
} {
  const user = (text: string, image: string | null, author: string | null): Turn => ({
    role: "user",
    content:
      image === null
        ? text
        : [
            { type: "text", text },
            { type: "image_url", image_url: { url: image } },
          ],
    ...(shared && author && { name: participantName(author) }),
  });
  let tokens = tokensOf(prompt, image) + (systemPrompt === null ? 0 : tokensOf(systemPrompt));
  const kept: Pair[] = [];
  for (const pair of pairs) {
    if (tokens + pair.tokens > budget) break;
    tokens += pair.tokens;
    kept.unshift(pair);
  }
  const earlier = kept.flatMap((pair): Turn[] => [
    user(pair.prompt, pair.image, pair.username),
    { role: "assistant", content: pair.reply },
  ]);
  const system: Turn[] = systemPrompt === null ? [] : [{ role: "system", content: systemPrompt }];
  return { turns: [...system, ...earlier, user(prompt, image, username)], tokens };
}

/** What a prompt and its reply count in a context. */
export const pairTokens = (prompt: string, image: string | null, reply: string): number =>
  tokensOf(prompt, image) + tokensOf(reply);

const tokensOf = (text: string, image: string | null = null): number =>
  estimateTokens(text) + PER_MESSAGE + (image === null ? 0 : PER_IMAGE);

/** A username as every OpenAI-compatible upstream takes it for the name of a participant. */
const participantName = (username: string): string => username.replace(/[^a-zA-Z0-9_-]/g, "_");
