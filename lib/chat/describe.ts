import type { Deps } from "../deps.ts";
import type { Reply } from "../http/endpoint.ts";
import { type CompletionEnd, complete } from "../llm/completion.ts";
import { CompletionError, type Patience } from "../llm/retry.ts";
import { estimateTokens } from "../llm/tokens.ts";
import { systemPrompt } from "../repo/settings.ts";
import { asking } from "./asking.ts";
import { contextOf } from "./context.ts";
import { marking, refuseFlagged } from "./moderation.ts";
import type { replyView } from "./turn.ts";

type Question = { prompt: string; image: string; model: string | undefined };

/**
 * What the model says of an image, in no chat: nothing of it is kept but the event. Throws `content_flagged` and `upstream_…`, and
 * the reason for which the client's signal was aborted.
 */
export async function describeImage(
  deps: Deps,
  { prompt, image, model }: Question,
  { account, gone }: Pick<Reply, "account" | "gone">,
): Promise<Parameters<typeof replyView>[0]> {
  const { contextTokens: budget, imageModel, aliases } = deps.config.chat;
  await refuseFlagged(deps, { prompt, image });
  const marked = marking(deps, { prompt, image }, gone);
  const said = { systemPrompt: await systemPrompt(deps.store), pairs: [], prompt, image, username: null, shared: false, budget };
  const { turns: messages, tokens } = contextOf(said);
  const named = aliases.get(model ?? imageModel) ?? model ?? imageModel;
  const ask = (patience: Patience) => whole(complete(deps.upstream, { model: named, messages, ...patience }));
  const { reply, end } = await asking(deps, ask, { patienceMs: deps.config.upstream.timeoutMs, gone }).catch((error) => {
    const { upstreamRequestId } = error.cause instanceof CompletionError ? error.cause : { upstreamRequestId: null };
    account({ model: named, usage: null, upstreamRequestId });
    throw error;
  });
  const usage = end.usage ?? { promptTokens: tokens, completionTokens: estimateTokens(reply), estimated: true };
  account({ model: end.model ?? named, usage, upstreamRequestId: end.upstreamRequestId });
  return { reply, promptTokens: usage.promptTokens, completionTokens: usage.completionTokens, flagged: await marked.mark() };
}

/** All of a reply, and what else is known of it. */
async function whole(answer: AsyncGenerator<string, CompletionEnd, void>): Promise<{ reply: string; end: CompletionEnd }> {
  let reply = "";
  for (;;) {
    const { done, value } = await answer.next();
    if (done) return { reply, end: value };
    reply += value;
  }
}
