import * as z from "zod";
import { signedIn } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { page } from "../../lib/http/fields.ts";
import * as groups from "../../lib/repo/groups.ts";
import { GroupView, groupView } from "./views.ts";

export const listGroups = endpoint({
  name: "group.index",
  summary: "List the groups that I am a member of, oldest first",
  route: "GET|POST /group/index",
  access: signedIn,
  input: z.object(page),
  output: z.object({ groups: z.array(GroupView), next: z.string().nullable() }),
  run: async ({ grant: { caller }, input: { cursor, limit }, deps: { store } }) => {
    const found = await groups.listForMember(store, caller.userId, cursor, limit + 1);
    const shown = found.slice(0, limit);
    return { groups: shown.map(groupView), next: found.length > limit ? (shown.at(-1)?.id ?? null) : null };
  },
});
