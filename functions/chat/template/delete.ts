import * as z from "zod";
import { templateOwner } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError } from "../../../lib/http/error.ts";
import { id, nothing } from "../../../lib/http/fields.ts";
import * as templates from "../../../lib/repo/templates.ts";

export const removeTemplate = endpoint({
  name: "chat.template.delete",
  summary: "Delete a saved prompt; what was said with it stays",
  route: "POST /chat/template/delete",
  access: templateOwner,
  input: z.object({ id }),
  output: nothing,
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, template }, deps: { store } }) => {
    if (!(await templates.remove(store, template.id, caller.userId))) throw new ApiError("not_found");
    return {};
  },
});
