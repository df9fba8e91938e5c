import type { Deps } from "../deps.ts";
import { ApiError } from "../http/error.ts";
import { CompletionError, type Patience } from "../llm/retry.ts";

/** How long somebody waits for something short, such as a list of models. */
const PATIENCE_MS = 30_000;

/**
 * What the upstream answers to a question that is no prompt of a chat. Throws `upstream_…` where it does not, and the reason of
 * `gone` where whoever asked does not wait any more.
 */
export async function asking<T>(
  { random }: Pick<Deps, "random">,
  question: (patience: Patience) => Promise<T>,
  { patienceMs = PATIENCE_MS, gone }: { patienceMs?: number; gone?: AbortSignal } = {},
): Promise<T> {
  const late = AbortSignal.timeout(patienceMs);
  const signal = gone ? AbortSignal.any([gone, late]) : late;
  try {
    return await question({ signal, random: () => random(4).readUInt32BE() / 2 ** 32 });
  } catch (error) {
    gone?.throwIfAborted();
    if (late.aborted) throw new ApiError("upstream_timeout", { cause: error });
    if (!(error instanceof CompletionError)) throw error;
    const { code, retryAfterSeconds } = error;
    throw new ApiError(code, { cause: error, ...(retryAfterSeconds !== undefined && { retryAfterSeconds }) });
  }
}
