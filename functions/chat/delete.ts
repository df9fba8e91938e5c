import * as z from "zod";
import { chatOwner } from "../../lib/access.ts";
import { tellDeleted } from "../../lib/chat/deleted.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { nothing } from "../../lib/http/fields.ts";
import * as chats from "../../lib/repo/chats.ts";
import { ofChat } from "./views.ts";

export const remove = endpoint({
  name: "chat.delete",
  summary: "Delete a chat with its messages; a reply that is being made is stopped",
  route: "POST /chat/delete",
  access: chatOwner,
  input: z.object(ofChat),
  output: nothing,
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, chat }, deps }) => {
    const seenBy = await chats.participants(deps.store, chat.id);
    const running = await chats.remove(deps.store, chat.id, caller.userId);
    if (!running) throw new ApiError("not_found");
    await tellDeleted(deps, { chat, running, seenBy: seenBy.map(({ id }) => id) }, caller.userId);
    return {};
  },
});
