import * as z from "zod";
import { chatMember } from "../../lib/access.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import { time } from "../../lib/http/fields.ts";
import * as tickets from "../../lib/repo/tickets.ts";
import { mintToken } from "../../lib/token.ts";
import { ofChat } from "./views.ts";

const LASTS_MS = 60_000;

export const ticket = endpoint({
  name: "chat.ticket",
  summary: "A ticket that opens one stream within a minute, for clients that cannot send headers",
  route: "POST /chat/ticket",
  access: chatMember,
  input: z.object(ofChat),
  output: z.object({ ticket: z.string(), expires_at: time }),
  errors: ["not_found"],
  audit: "row",
  run: async ({ grant: { caller }, deps }) => {
    const { token, hash } = mintToken("ticket", deps.random);
    const expiresAt = new Date(deps.now() + LASTS_MS);
    if (!(await tickets.insert(deps.store, { hash, sessionId: caller.sessionId, expiresAt })))
      throw new ApiError("unauthenticated");
    return { ticket: token, expires_at: expiresAt.toISOString() };
  },
});
