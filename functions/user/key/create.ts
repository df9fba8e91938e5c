import * as z from "zod";
import { signedInByPassword } from "../../../lib/access.ts";
import { mintKey } from "../../../lib/auth/accounts.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { instant, label } from "../../../lib/http/fields.ts";
import { SessionView, sessionView } from "../views.ts";

export const createKey = endpoint({
  name: "user.key.create",
  summary: "Make an API key; its token is shown this once",
  route: "POST /user/key/create",
  access: signedInByPassword,
  audit: "row",
  input: z.object({ label, expires_at: instant.optional() }),
  output: z.object({ token: z.string(), key: SessionView }),
  errors: ["forbidden"],
  run: async ({ grant: { caller }, input, deps }) => {
    const { token, key } = await mintKey(deps, caller.userId, input.label, input.expires_at);
    return { token, key: sessionView(key) };
  },
});
