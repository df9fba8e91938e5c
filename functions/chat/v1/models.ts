import * as z from "zod";
import { chatMember } from "../../../lib/access.ts";
import { modelsFor } from "../../../lib/chat/models.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ofChat } from "../views.ts";

export const models = endpoint({
  name: "chat.v1.models",
  summary: "The models that a chat can name, in OpenAI's shape",
  route: "GET|POST /chat/:id/v1/models",
  access: chatMember,
  input: z.object(ofChat),
  output: z.object({ object: z.literal("list"), data: z.array(z.looseObject({ id: z.string() })) }),
  errors: ["not_found", "upstream_refused", "upstream_busy", "upstream_timeout", "upstream_unreachable"],
  audit: "row",
  run: async ({ deps }) => ({ object: "list" as const, data: await modelsFor(deps) }),
});
