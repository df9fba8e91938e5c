import * as z from "zod";
import { signedInByPassword } from "../../../lib/access.ts";
import { changePassword } from "../../../lib/auth/accounts.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { newPassword, nothing, password } from "../../../lib/http/fields.ts";

export const updatePassword = endpoint({
  name: "user.password.update",
  summary: "Change my password; my other sign-ins end, my API keys stay",
  route: "POST /user/password/update",
  access: signedInByPassword,
  audit: "row",
  input: z.object({ password, new_password: newPassword }),
  output: nothing,
  errors: ["wrong_password", "forbidden", "rate_limited", "busy"],
  run: async ({ grant: { caller }, input, deps }) => {
    const { userId, username, sessionId } = caller;
    const { password, new_password: newPassword } = input;
    await changePassword(deps, { userId, username, sessionId, password, newPassword });
    return {};
  },
});
