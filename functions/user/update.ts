import * as z from "zod";
import { selfByPassword } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { id, label, username } from "../../lib/http/fields.ts";
import * as users from "../../lib/repo/users.ts";
import { UserView, userView } from "./views.ts";

export const update = endpoint({
  name: "user.update",
  summary: "Change my username or name; an administrator changes anyone's",
  route: "POST /user/update",
  access: selfByPassword,
  input: z.object({ id: id.optional(), username: username.optional(), name: label.optional() }),
  output: z.object({ user: UserView }),
  errors: ["forbidden", "not_found", "username_taken"],
  run: async ({ grant, input, deps: { store, now } }) => {
    const change = { ...(input.username && { username: input.username }), ...(input.name && { name: input.name }) };
    const updated = await users.update(store, grant.user.id, change, new Date(now()));
    if (updated === "taken") throw new ApiError("username_taken", { param: "username" });
    if (updated === null) throw new ApiError("not_found");
    return { user: userView(updated) };
  },
});
