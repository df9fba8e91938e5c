import * as z from "zod";
import { templateOwner } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError } from "../../../lib/http/error.ts";
import { id, label, PROMPT_BYTES } from "../../../lib/http/fields.ts";
import * as templates from "../../../lib/repo/templates.ts";
import { TemplateView, templateView, text } from "./views.ts";

export const updateTemplate = endpoint({
  name: "chat.template.update",
  summary: "Change a saved prompt, or whom it is shared with",
  route: "POST /chat/template/update",
  access: templateOwner,
  /** An empty `group_id`: it is shared no more. */
  input: z.object({ id, name: label.optional(), text: text.optional(), group_id: z.union([id, z.literal("")]).optional() }),
  output: TemplateView,
  errors: ["forbidden", "not_found"],
  bodyLimit: PROMPT_BYTES,
  run: async ({ grant: { caller, template }, input: { name, text, group_id }, deps: { store, now } }) => {
    const change: templates.Change = {
      ...(name !== undefined && { name }),
      ...(text !== undefined && { text }),
      ...(group_id !== undefined && { groupId: group_id || null }),
    };
    const updated = await templates.update(store, template.id, caller.userId, change, new Date(now()));
    if (!updated) throw new ApiError("not_found");
    return templateView(updated);
  },
});
