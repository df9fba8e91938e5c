import type { Call } from "../http/endpoint.ts";
import type { Outcome } from "../repo/ledger.ts";

type Known = Partial<Outcome> & Pick<Outcome, "status" | "errorCode">;

/** A call's outcome, as of now: what is known of it, and nothing of the rest. */
export function outcomeOf({ deps, startedAt }: Pick<Call, "deps" | "startedAt">, known: Known): Outcome {
  const endedAt = new Date(deps.now());
  return {
    endedAt,
    durationMs: Math.max(0, endedAt.getTime() - startedAt.getTime()),
    userId: null,
    model: null,
    usage: null,
    upstreamRequestId: null,
    requestBody: null,
    responseBody: null,
    subject: null,
    ...known,
  };
}
