import * as z from "zod";
import { anyone } from "../../lib/access.ts";
import { signIn } from "../../lib/auth/accounts.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { anyUsername, password } from "../../lib/http/fields.ts";
import { SignedInView, signedInView } from "./views.ts";

export const login = endpoint({
  name: "user.login",
  summary: "Sign in: sets the sess cookie, and answers its token",
  route: "POST /user/login",
  access: anyone,
  audit: "row",
  input: z.object({ username: anyUsername, password }),
  output: SignedInView,
  errors: ["wrong_password", "rate_limited", "busy"],
  run: async ({ input, call, deps, reply }) => {
    const signedIn = await signIn(deps, input, call.address, (userId) => reply.concerns({ userId }));
    reply.sessionCookie(signedIn.token, deps.config.session.absoluteMs / 1000);
    return signedInView(signedIn);
  },
});
