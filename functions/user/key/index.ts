import * as z from "zod";
import { signedIn } from "../../../lib/access.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { nothing } from "../../../lib/http/fields.ts";
import * as sessions from "../../../lib/repo/sessions.ts";
import { SessionView, sessionView } from "../views.ts";

export const listKeys = endpoint({
  name: "user.key.index",
  summary: "List my API keys, newest first, without their tokens",
  route: "GET|POST /user/key/index",
  access: signedIn,
  input: nothing,
  output: z.object({ keys: z.array(SessionView) }),
  run: async ({ grant: { caller }, deps: { store, now } }) => {
    const keys = await sessions.listKeys(store, caller.userId, new Date(now()));
    return { keys: keys.map(sessionView) };
  },
});
