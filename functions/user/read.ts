import * as z from "zod";
import { self } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { id } from "../../lib/http/fields.ts";
import { UserView, userView } from "./views.ts";

export const read = endpoint({
  name: "user.read",
  summary: "Read my own user record; an administrator reads anyone's",
  route: "GET|POST /user/read",
  access: self,
  input: z.object({ id: id.optional() }),
  output: z.object({ user: UserView }),
  errors: ["not_found"],
  run: ({ grant }) => ({ user: userView(grant.user) }),
});
