import * as z from "zod";
import { signedIn } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError } from "../../../lib/http/error.ts";
import { id, nothing } from "../../../lib/http/fields.ts";
import * as sessions from "../../../lib/repo/sessions.ts";

export const deleteKey = endpoint({
  name: "user.key.delete",
  summary: "End one of my API keys, at once",
  route: "POST /user/key/delete",
  access: signedIn,
  input: z.object({ id }),
  output: nothing,
  errors: ["not_found"],
  run: async ({ grant: { caller }, input, deps: { store } }) => {
    if (!(await sessions.remove(store, input.id, caller.userId, "key"))) throw new ApiError("not_found");
    return {};
  },
});
