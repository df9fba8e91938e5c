import type { Deps } from "../deps.ts";
import { ApiError } from "../http/error.ts";
import { listModels, type Model } from "../llm/models.ts";
import { CompletionError } from "../llm/retry.ts";

/** How long somebody waits for a list of models. */
const PATIENCE_MS = 30_000;

/** The models that the upstream lists. Throws `upstream_…` where it does not. */
export async function modelsFor(deps: Pick<Deps, "upstream" | "random">): Promise<Model[]> {
  const signal = AbortSignal.timeout(PATIENCE_MS);
  try {
    return await listModels(deps.upstream, { signal, random: () => deps.random(4).readUInt32BE() / 2 ** 32 });
  } catch (error) {
    if (signal.aborted) throw new ApiError("upstream_timeout", { cause: error });
    if (!(error instanceof CompletionError)) throw error;
    const { code, retryAfterSeconds } = error;
    throw new ApiError(code, { cause: error, ...(retryAfterSeconds !== undefined && { retryAfterSeconds }) });
  }
}
