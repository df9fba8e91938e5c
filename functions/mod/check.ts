import * as z from "zod";
import { signedIn } from "../../lib/access.ts";
import { moderationOf } from "../../lib/chat/moderation.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { PROMPT_BYTES, prompt } from "../../lib/http/fields.ts";

export const check = endpoint({
  name: "mod.check",
  summary: "What the upstream's moderation says of a text, as it says it",
  route: "POST /mod",
  access: signedIn,
  input: z.object({ content: prompt }),
  output: z.looseObject({
    id: z.string(),
    model: z.string(),
    results: z.array(z.looseObject({ flagged: z.boolean() })),
  }),
  errors: ["upstream_refused", "upstream_busy", "upstream_timeout", "upstream_unreachable"],
  bodyLimit: PROMPT_BYTES,
  run: async ({ input: { content }, deps, reply }) => {
    const { results, ...said } = await moderationOf(deps, content, reply.gone);
    return { ...said, results: results.map((it) => ({ ...it })) };
  },
});
