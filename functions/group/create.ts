import * as z from "zod";
import { signedIn } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { label, paragraph } from "../../lib/http/fields.ts";
import * as groups from "../../lib/repo/groups.ts";
import { GroupView, groupView } from "./views.ts";

export const create = endpoint({
  name: "group.create",
  summary: "Make a group, whose owner I am",
  route: "POST /group/create",
  access: signedIn,
  input: z.object({ name: label, description: paragraph(2_000).default("") }),
  output: GroupView,
  run: async ({ grant: { caller }, input, deps: { store, now, newId }, reply }) => {
    const group = await groups.create(store, { id: newId(), ...input, createdAt: new Date(now()) }, caller.userId);
    reply.concerns({ groupId: group.id });
    return groupView(group);
  },
});
