import type OpenAI from "openai";
import { answerJson } from "./answer-json.ts";
import { post, withClient } from "./client.ts";
import { CompletionError, type Patience } from "./retry.ts";
import type { Upstream } from "./upstream.ts";

/** What moderation says of what was sent, as the upstream words it. */
export type Moderation = OpenAI.ModerationCreateResponse;

/** Asks the upstream's moderation about a text, and an image. Throws `CompletionError`, or the signal's reason. */
export async function moderate(
  upstream: Upstream,
  { text, image }: { text: string; image: string | null },
  patience: Patience,
): Promise<Moderation> {
  const send = async (target: string, body: string) => {
    const answer = await post(upstream, target, body, patience, { accept: "application/json" });
    const json = await answerJson(answer, patience.signal);
    return { ok: true, status: answer.status, url: "", headers: JSON_TYPE, json: async () => json };
  };
  const parts = (url: string) => [
    { type: "text" as const, text },
    { type: "image_url" as const, image_url: { url } },
  ];
  const said = await withClient(send, (client) => client.moderations.create({ input: image === null ? text : parts(image) }));
  if (isModeration(said)) return said;
  throw new CompletionError("upstream_garbled");
}
const JSON_TYPE = new Map([["content-type", "application/json"]]);

/** The categories that anything of it was flagged for; null where nothing was. */
export function flagsIn({ results }: Moderation): string[] | null {
  const flagged = results.filter((it) => it.flagged);
  if (flagged.length === 0) return null;
  const names = flagged.flatMap(({ categories }) =>
    Object.entries(categories ?? {}).flatMap(([name, hit]) => (hit ? [name] : [])),
  );
  return names.length > 0 ? [...new Set(names)] : [UNNAMED];
}
/** Of what is flagged without a category. */
const UNNAMED = "flagged";

function isModeration(said: unknown): said is Moderation {
  const { results } = (typeof said === "object" && said !== null ? said : {}) as { results?: unknown };
  return Array.isArray(results) && results.length > 0 && results.every((it) => typeof it?.flagged === "boolean");
}
