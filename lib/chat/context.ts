import type { CompletionMessage as Turn } from "../llm/completion.ts";
import { estimateTokens } from "../llm/tokens.ts";
import type { Pair } from "../repo/messages.ts";

/** What each message costs besides its text, as OpenAI counts them. */
const PER_MESSAGE = 4;

export type ContextParts = {
  systemPrompt: string | null;
  /** Earlier pairs, the newest first. */
  pairs: readonly Pair[];
  prompt: string;
  username: string | null;
  /** Others read along, so that the model is told who says what. */
  shared: boolean;
  /** The most tokens of all of it, as estimated. The system prompt and the prompt are sent however long they are. */
  budget: number;
};

/** What the model is sent: the system prompt, as many earlier pairs as the budget allows, the oldest left out first, and the prompt. */
export function contextOf({ systemPrompt, pairs, prompt, username, shared, budget }: ContextParts): {
  turns: Turn[];
  tokens: number;
} {
  const user = (content: string, author: string | null): Turn => ({
    role: "user",
    content,
    ...(shared && author && { name: participantName(author) }),
  });
  let tokens = tokensOf(prompt) + (systemPrompt === null ? 0 : tokensOf(systemPrompt));
  const kept: Pair[] = [];
  for (const pair of pairs) {
    if (tokens + pair.tokens > budget) break;
    tokens += pair.tokens;
    kept.unshift(pair);
  }
  const earlier = kept.flatMap((pair): Turn[] => [user(pair.prompt, pair.username), { role: "assistant", content: pair.reply }]);
  const system: Turn[] = systemPrompt === null ? [] : [{ role: "system", content: systemPrompt }];
  return { turns: [...system, ...earlier, user(prompt, username)], tokens };
}

/** What a prompt and its reply count in a context. */
export const pairTokens = (prompt: string, reply: string): number => tokensOf(prompt) + tokensOf(reply);

const tokensOf = (text: string): number => estimateTokens(text) + PER_MESSAGE;

/** A username as every OpenAI-compatible upstream takes it for the name of a participant. */
const participantName = (username: string): string => username.replace(/[^a-zA-Z0-9_-]/g, "_");
