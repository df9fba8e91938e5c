import * as z from "zod";
import { chatOwnerIfAny } from "../../lib/access.ts";
import { clearChat } from "../../lib/chat/clear.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { chatName, nothing } from "../../lib/http/fields.ts";

export const clear = endpoint({
  name: "chat.clear",
  summary: "Forget what was said in a chat, for everyone, at once; a reply that is being made is stopped",
  route: "POST /chat/:chat_id/clear",
  bare: true,
  access: chatOwnerIfAny,
  input: z.object({ chat_id: chatName }),
  output: nothing,
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, chat }, deps }) => {
    if (chat && !(await clearChat(deps, chat.id, caller.userId))) throw new ApiError("not_found");
    return {};
  },
});
