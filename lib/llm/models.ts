import { json } from "node:stream/consumers";
import { CompletionError, type Patience, persist, requestIdOf } from "./retry.ts";
import type { Upstream } from "./upstream.ts";

/** The models that the upstream lists, as it describes them. Throws `CompletionError`, or the signal's reason. */
export async function listModels(upstream: Upstream, patience: Patience): Promise<unknown[]> {
  const { signal } = patience;
  const request = { method: "GET", target: "/v1/models", headers: ["accept", "application/json"], body: null, signal };
  const answer = await persist((connectMs) => upstream.request({ ...request, connectMs }), patience);
  const listed = await json(answer.body).catch((cause: unknown) => {
    throw new CompletionError("upstream_garbled", { upstreamRequestId: requestIdOf(answer), cause });
  });
  if (typeof listed === "object" && listed !== null && "data" in listed && Array.isArray(listed.data)) return listed.data;
  throw new CompletionError("upstream_garbled", { upstreamRequestId: requestIdOf(answer) });
}
