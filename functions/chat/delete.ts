import * as z from "zod";
import { chatOwner } from "../../lib/access.ts";
import { announce, announceCleared } from "../../lib/chat/announce.ts";
import { tellToStop } from "../../lib/chat/stop.ts";
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
    await tellToStop(deps, chat.id, running, caller.userId);
    // A key that names another chat some day finds nothing of this one.
    await announceCleared(deps, chat.id, running, null, chat.createdAt.getTime());
    await announce(deps, chat.id, { t: "member", added: [], removed: seenBy.map(({ id }) => id) });
    return {};
  },
});
