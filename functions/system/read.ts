import { signedIn } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { nothing } from "../../lib/http/fields.ts";
import * as settings from "../../lib/repo/settings.ts";
import { SystemPrompt } from "./views.ts";

export const read = endpoint({
  name: "system.read",
  summary: "The global system prompt, which chats have that have none of their own",
  route: "GET /system",
  access: signedIn,
  input: nothing,
  output: SystemPrompt,
  audit: "row",
  run: async ({ deps: { store } }) => ({ content: (await settings.systemPrompt(store)) ?? "" }),
});
