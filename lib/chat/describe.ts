import type { Deps } from "../deps.ts";
import type { Reply } from "../http/endpoint.ts";
import { complete } from "../llm/completion.ts";
import { estimateTokens } from "../llm/tokens.ts";
import { systemPrompt } from "../repo/settings.ts";
import { asking } from "./asking.ts";
import { contextOf } from "./context.ts";
import { markOf, refuseFlagged } from "./moderation.ts";
import type { replyView } from "./turn.ts";

type Question = { prompt: string; image: string; model: string | undefined };

/** What the model says of an image, in no chat: nothing of it is kept but the event. Throws `content_flagged` and `upstream_…`. */
export async function describeImage(
  deps: Deps,
  { prompt, image, model }: Question,
  account: Reply["account"],
): Promise<Parameters<typeof replyView>[0]> {
  const { contextTokens: budget, imageModel, aliases } = deps.config.chat;
  await refuseFlagged(deps, { prompt, image });
  const marking = markOf(deps, { prompt, image });
  const said = { systemPrompt: await systemPrompt(deps.store), pairs: [], prompt, image, username: null, shared: false, budget };
  const { turns: messages, tokens } = contextOf(said);
  const named = aliases.get(model ?? imageModel) ?? model ?? imageModel;
  let reply = "";
  const { usage, ...end } = await asking(
    deps,
    async (patience) => {
      const answer = complete(deps.upstream, { model: named, messages, ...patience });
      for (;;) {
        const { done, value } = await answer.next();
        if (done) return value;
        reply += value;
      }
    },
    deps.config.upstream.timeoutMs,
  );
  const used = usage ?? { promptTokens: tokens, completionTokens: estimateTokens(reply), estimated: true };
  account({ model: end.model ?? named, usage: used, upstreamRequestId: end.upstreamRequestId });
  return { reply, promptTokens: used.promptTokens, completionTokens: used.completionTokens, flagged: await marking };
}
