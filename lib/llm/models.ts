import { answerJson } from "./answer-json.ts";
import { CompletionError, type Patience, persist, requestIdOf } from "./retry.ts";
import type { Upstream } from "./upstream.ts";

export type Model = { id: string };

/** The models that the upstream lists, as it describes them. Throws `CompletionError`, or the signal's reason. */
export async function listModels(upstream: Upstream, patience: Patience): Promise<Model[]> {
  const { signal } = patience;
  const request = { method: "GET", target: "/v1/models", headers: ["accept", "application/json"], body: null, signal };
  const answer = await persist((connectMs) => upstream.request({ ...request, connectMs }), patience);
  const listed = await answerJson(answer, signal);
  if (isList(listed)) return listed.data;
  throw new CompletionError("upstream_garbled", { upstreamRequestId: requestIdOf(answer) });
}

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;
const isModel = (value: unknown): value is Model => isObject(value) && "id" in value && typeof value.id === "string";
const isList = (value: unknown): value is { data: Model[] } =>
  isObject(value) && "data" in value && Array.isArray(value.data) && value.data.every(isModel);
