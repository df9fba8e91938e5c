import * as z from "zod";
import { signedIn } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { id, page } from "../../../lib/http/fields.ts";
import * as templates from "../../../lib/repo/templates.ts";
import { TemplateView, templateView } from "./views.ts";

export const listTemplates = endpoint({
  name: "chat.template.index",
  summary: "List the saved prompts that I see, the oldest first: all, or those of a group",
  route: "GET|POST /chat/template/index",
  access: signedIn,
  input: z.object({ group_id: id.optional(), ...page }),
  output: z.object({ templates: z.array(TemplateView), next: z.string().nullable() }),
  run: async ({ grant: { caller }, input: { group_id: groupId, cursor, limit }, deps: { store } }) => {
    const found = await templates.listForMember(store, caller.userId, { groupId, after: cursor, limit: limit + 1 });
    const page = found.slice(0, limit);
    return { templates: page.map(templateView), next: found.length > limit ? (page.at(-1)?.id ?? null) : null };
  },
});
