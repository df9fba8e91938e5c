import * as z from "zod";
import { groupOwner } from "../../lib/access.ts";
import { tellToStop } from "../../lib/chat/stop.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { id, nothing } from "../../lib/http/fields.ts";
import * as groups from "../../lib/repo/groups.ts";
import * as messages from "../../lib/repo/messages.ts";

export const remove = endpoint({
  name: "group.delete",
  summary: "Delete a group with all of its chats; replies that are being made in them are stopped",
  route: "POST /group/delete",
  access: groupOwner,
  input: z.object({ id }),
  output: nothing,
  errors: ["forbidden", "not_found"],
  run: async ({ grant: { caller, group }, deps }) => {
    const running = await messages.runningInGroup(deps.store, group.id);
    if (!(await groups.remove(deps.store, group.id, caller.userId))) throw new ApiError("not_found");
    await Promise.all(running.map((reply) => tellToStop(deps, reply.chatId, [reply], caller.userId)));
    deps.membership.check();
    return {};
  },
});
