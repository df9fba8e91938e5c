import * as z from "zod";
import { maker } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { id, label, PROMPT_BYTES } from "../../../lib/http/fields.ts";
import * as templates from "../../../lib/repo/templates.ts";
import { TemplateView, templateView, text } from "./views.ts";

export const createTemplate = endpoint({
  name: "chat.template.create",
  summary: "Save a prompt with {{fields}}, for myself or for a group",
  route: "POST /chat/template/create",
  access: maker,
  input: z.object({ name: label, text, group_id: id.optional() }),
  output: TemplateView,
  errors: ["not_found"],
  bodyLimit: PROMPT_BYTES,
  run: async ({ grant: { caller, group }, input: { name, text }, deps: { store, now, newId } }) => {
    const template = { id: newId(), ownerId: caller.userId, groupId: group?.id ?? null, name, text, createdAt: new Date(now()) };
    return templateView(await templates.create(store, template));
  },
});
