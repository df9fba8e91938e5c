import * as z from "zod";
import { tokenHolder } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { nothing } from "../../lib/http/fields.ts";
import * as sessions from "../../lib/repo/sessions.ts";

export const logout = endpoint({
  name: "user.logout",
  summary: "Sign out: ends the session whose token is presented, and forgets the cookie",
  route: "POST /user/logout",
  access: tokenHolder,
  audit: "row",
  input: z.object({ token: z.string().max(256).optional() }),
  output: nothing,
  errors: ["unauthenticated", "two_credentials"],
  run: async ({ grant, deps, reply }) => {
    await sessions.remove(deps.store, grant.session.id, grant.session.userId);
    reply.concerns({ userId: grant.session.userId });
    reply.sessionCookie("", 0);
    return {};
  },
});
