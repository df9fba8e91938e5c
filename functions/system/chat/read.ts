import * as z from "zod";
import { chatMemberIfAny } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { chatName } from "../../../lib/http/fields.ts";
import * as settings from "../../../lib/repo/settings.ts";
import { SystemPrompt } from "../views.ts";

export const readOfChat = endpoint({
  name: "system.chat.read",
  summary: "The system prompt of a chat: its own, else the global one",
  route: "GET /system/:chat_id/system",
  bare: true,
  access: chatMemberIfAny,
  input: z.object({ chat_id: chatName }),
  output: SystemPrompt,
  errors: ["not_found"],
  audit: "row",
  run: async ({ grant: { chat }, deps: { store } }) => ({
    content: chat?.systemPrompt ?? (await settings.systemPrompt(store)) ?? "",
  }),
});
