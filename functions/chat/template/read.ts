import * as z from "zod";
import { templateMember } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { id } from "../../../lib/http/fields.ts";
import { TemplateView, templateView } from "./views.ts";

export const readTemplate = endpoint({
  name: "chat.template.read",
  summary: "Read a saved prompt",
  route: "GET|POST /chat/template/read",
  access: templateMember,
  input: z.object({ id }),
  output: TemplateView,
  errors: ["not_found"],
  run: ({ grant: { template } }) => templateView(template),
});
