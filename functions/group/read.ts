import * as z from "zod";
import { groupMember } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { id } from "../../lib/http/fields.ts";
import { GroupView, groupView } from "./views.ts";

export const read = endpoint({
  name: "group.read",
  summary: "Read a group that I am a member of",
  route: "GET|POST /group/read",
  access: groupMember,
  input: z.object({ id }),
  output: GroupView,
  errors: ["not_found"],
  run: ({ grant }) => groupView(grant.group),
});
