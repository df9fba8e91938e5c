import { json } from "node:stream/consumers";
import { CompletionError, requestIdOf, transportFailure } from "./retry.ts";
import type { UpstreamAnswer } from "./upstream.ts";

/** The JSON of an answer, read to its end. Throws `CompletionError`, or the signal's reason. */
export const answerJson = (answer: UpstreamAnswer, signal: AbortSignal): Promise<unknown> =>
  json(answer.body).catch((cause: unknown) => {
    signal.throwIfAborted();
    const code = transportFailure(cause, true)?.code ?? "upstream_garbled";
    throw new CompletionError(code, { upstreamRequestId: requestIdOf(answer), cause });
  });
