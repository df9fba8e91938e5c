import * as z from "zod";
import { admin } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { nothing, PROMPT_BYTES } from "../../lib/http/fields.ts";
import * as settings from "../../lib/repo/settings.ts";
import { content } from "./views.ts";

export const update = endpoint({
  name: "system.update",
  summary: "Set the global system prompt, or take it away with an empty one; what it was is in the audit log",
  route: "POST /system",
  access: admin,
  input: z.object({ content }),
  output: nothing,
  errors: ["forbidden"],
  bodyLimit: PROMPT_BYTES,
  run: async ({ input: { content }, deps: { store } }) => {
    await settings.setSystemPrompt(store, content || null);
    return {};
  },
});
