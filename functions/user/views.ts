import * as z from "zod";
import { NEVER, type SignedIn } from "../../lib/auth/accounts.ts";
import { time } from "../../lib/http/fields.ts";
import type { SessionView as Session } from "../../lib/repo/sessions.ts";
import type { UserView as User } from "../../lib/repo/users.ts";

/** A user as they see themselves. */
export const UserView = z.object({
  id: z.string(),
  username: z.string(),
  name: z.string().nullable(),
  admin: z.boolean(),
  created_at: time,
});
export const userView = ({ id, username, name, admin, createdAt }: User): z.input<typeof UserView> => ({
  id,
  username,
  name,
  admin,
  created_at: createdAt.toISOString(),
});

/** A sign-in or an API key, without its token. `expires_at` null: never. */
export const SessionView = z.object({
  id: z.string(),
  kind: z.enum(["session", "key"]),
  label: z.string().nullable(),
  hint: z.string(),
  created_at: time,
  last_used_at: time,
  expires_at: time.nullable(),
});
export const sessionView = (session: Session): z.input<typeof SessionView> => ({
  id: session.id,
  kind: session.kind,
  label: session.label,
  hint: session.hint,
  created_at: session.createdAt.toISOString(),
  last_used_at: session.lastUsedAt.toISOString(),
  expires_at: session.expiresAt < NEVER ? session.expiresAt.toISOString() : null,
});

/** What a sign-in answers: the token, also set as the cookie, and whose it is. */
export const SignedInView = z.object({ token: z.string(), expires_at: time, user: UserView });
export const signedInView = ({ token, expiresAt, user }: SignedIn): z.input<typeof SignedInView> => ({
  token,
  expires_at: expiresAt.toISOString(),
  user: userView(user),
});
