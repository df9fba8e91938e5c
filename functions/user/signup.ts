import * as z from "zod";
import { anyone } from "../../lib/access.ts";
import { signUp } from "../../lib/auth/accounts.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { label, newPassword, username } from "../../lib/http/fields.ts";
import { SignedInView, signedInView } from "./views.ts";

export const signup = endpoint({
  name: "user.signup",
  summary: "Register, and sign in",
  route: "POST /user/signup",
  access: anyone,
  audit: "row",
  input: z.object({ username, password: newPassword, name: label.optional(), signup_code: z.string().max(256).optional() }),
  output: SignedInView,
  errors: ["signup_closed", "signup_code", "username_taken", "rate_limited", "busy"],
  run: async ({ input, call, deps, reply }) => {
    const { username, password, name = null, signup_code: code } = input;
    const signedIn = await signUp(deps, { username, password, name, code }, call.address);
    reply.concerns({ userId: signedIn.user.id });
    reply.sessionCookie(signedIn.token, deps.config.session.absoluteMs / 1000);
    return signedInView(signedIn);
  },
});
