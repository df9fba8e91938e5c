import { uuidv7 } from "uuidv7";
import type { Opening, Outcome } from "../../lib/repo/ledger.ts";
import * as sessions from "../../lib/repo/sessions.ts";
import * as users from "../../lib/repo/users.ts";
import type { Store } from "../../lib/store/store.ts";
import { mintToken } from "../../lib/token.ts";

/** The instant of these tests, and offsets from it in milliseconds. */
export const at = (ms = 0) => new Date(Date.UTC(2026, 10, 21, 20, 42, 7, 123) + ms);
export const DAY_MS = 86_400_000;

let names = 0;
export const newName = (prefix = "anna") => `${prefix}-${process.pid}-${++names}`;

/** An id as it would be made at that instant. */
export function idAt(instant: Date): string {
  const hex = instant.getTime().toString(16).padStart(12, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8)}${uuidv7().slice(13)}`;
}

export const newUser = (change: Partial<users.NewUser> = {}): users.NewUser => ({
  id: uuidv7(),
  username: newName(),
  name: null,
  passwordHash: "$argon2id$not-a-real-one",
  admin: false,
  createdAt: at(),
  ...change,
});

export const newSession = (userId: string, change: Partial<sessions.NewSession> = {}): sessions.NewSession => ({
  id: uuidv7(),
  userId,
  kind: "session",
  label: null,
  createdAt: at(),
  expiresAt: at(7 * DAY_MS),
  endsAt: at(30 * DAY_MS),
  ...change,
});

export type SignedIn = { user: users.NewUser; session: sessions.NewSession; hash: string };

/** A new user with a session. */
export async function signedIn(
  store: Store,
  user: Partial<users.NewUser> = {},
  session: Partial<sessions.NewSession> = {},
): Promise<SignedIn> {
  const someone = newUser(user);
  const theirs = newSession(someone.id, session);
  const minted = mintToken(theirs.kind);
  await store.atomic((q) => [users.insert(q, store, someone), sessions.insert(q, store, theirs, minted)]);
  return { user: someone, session: theirs, hash: minted.hash };
}

export const opening = (change: Partial<Opening> = {}): Opening => ({
  id: uuidv7(),
  startedAt: at(),
  endpoint: "proxy.v1",
  method: "POST",
  path: "/v1/chat/completions",
  query: "",
  address: "127.0.0.1",
  ...change,
});

export const outcome = (change: Partial<Outcome> = {}): Outcome => ({
  endedAt: at(41),
  status: 200,
  durationMs: 41,
  userId: null,
  model: null,
  usage: null,
  upstreamRequestId: null,
  errorCode: null,
  requestBody: null,
  responseBody: null,
  subject: null,
  ...change,
});
