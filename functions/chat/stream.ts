import * as z from "zod";
import { chatMember } from "../../lib/access.ts";
import { stream } from "../../lib/http/endpoint.ts";
import { ofChat } from "./views.ts";

export const watch = stream({
  name: "chat.stream",
  summary: "Watch a chat: replies as they are made, by server-sent events or WebSocket",
  route: "GET|POST /chat/stream",
  access: chatMember,
  input: z.object(ofChat),
  errors: ["not_found"],
  open: async ({ grant: { caller, chat }, deps, viewer }) => {
    const detach = await deps.live.attach(chat, viewer);
    const unwatch = deps.membership.watch({ chatId: chat.id, userId: caller.userId }, () => viewer.end("access_ended"));
    return () => {
      unwatch();
      detach();
    };
  },
});
