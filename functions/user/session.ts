import * as z from "zod";
import { signedIn } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { nothing } from "../../lib/http/fields.ts";
import * as sessions from "../../lib/repo/sessions.ts";
import * as users from "../../lib/repo/users.ts";
import { SessionView, sessionView, UserView, userView } from "./views.ts";

export const session = endpoint({
  name: "user.session",
  summary: "Who am I, and with which session or key",
  route: "GET|POST /user/session",
  access: signedIn,
  input: nothing,
  output: z.object({ session: SessionView, user: UserView }),
  run: async ({ grant: { caller }, deps: { store } }) => {
    const session = await sessions.findForUser(store, caller.sessionId, caller.userId);
    const user = await users.find(store, caller.userId);
    if (!session || !user) throw new ApiError("unauthenticated");
    return { session: sessionView(session), user: userView(user) };
  },
});
