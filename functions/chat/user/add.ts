import * as z from "zod";
import { chatOwner } from "../../../lib/access.ts";
import { existing } from "../../../lib/auth/people.ts";
import { announce } from "../../../lib/chat/announce.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { chatName, people } from "../../../lib/http/fields.ts";
import * as chats from "../../../lib/repo/chats.ts";
import { ParticipantsView, participantsView } from "../views.ts";

export const addUsers = endpoint({
  name: "chat.user.add",
  summary: "Let people take part in a chat",
  route: "POST /chat/user/add",
  access: chatOwner,
  input: z.object({ chat_id: chatName, ...people }),
  output: z.object({ users: ParticipantsView }),
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, chat }, input, deps }) => {
    const added = await existing(deps.store, input);
    await chats.addUsers(
      deps.store,
      chat.id,
      added.filter((it) => it !== chat.ownerId),
      new Date(deps.now()),
      caller.userId,
    );
    await announce(deps, chat.id, { t: "member", added, removed: [] });
    return { users: participantsView(await chats.participants(deps.store, chat.id)) };
  },
});
