import { timingSafeEqual } from "node:crypto";
import type { Deps } from "../deps.ts";
import { throttleAddress } from "../http/address.ts";
import { ApiError } from "../http/error.ts";
import * as sessions from "../repo/sessions.ts";
import * as throttles from "../repo/throttles.ts";
import * as users from "../repo/users.ts";
import { storeError } from "../store/store.ts";
import { mintToken } from "../token.ts";
import { countFailure, countTry, failureKey, refuseBlocked, refuseOver, signinLimit, signupLimit } from "./throttle.ts";

export type SignedIn = { user: users.UserView; token: string; expiresAt: Date };

/** A key that its owner gave no end. */
export const NEVER = new Date("9999-12-31T00:00:00Z");

type SignUp = { username: string; password: string; name: string | null; code: string | undefined };

/** Adds a user and signs them in. Throws `signup_closed`, `signup_code`, `rate_limited`, `username_taken`, `busy`. */
export async function signUp(deps: Deps, { username, password, name, code }: SignUp, address: string): Promise<SignedIn> {
  const { store, config } = deps;
  const now = new Date(deps.now());
  if (config.signup.mode === "closed") throw new ApiError("signup_closed");
  const limit = signupLimit(throttleAddress(address), config.throttle.signupPerHour);
  refuseOver(limit, await countTry(store.db, store, limit, now), now);
  if (config.signup.mode === "code" && !same(code ?? "", config.signup.code ?? "")) throw new ApiError("signup_code");

  const user = {
    id: deps.newId(),
    username,
    name,
    passwordHash: await deps.passwords.hash(password),
    admin: false,
    createdAt: now,
  };
  const { session, minted } = newSession(deps, user.id);
  try {
    const results = await store.atomic((q) => [
      users.insert(q, store, user),
      ...(config.signup.firstIsAdmin ? users.makeFirstAdmin(q, store, user.id) : []),
      sessions.insert(q, store, session, minted),
      users.select(q, store, user.id),
    ]);
    const [added] = results.at(-1) as users.UserView[];
    return { user: added as users.UserView, token: minted.token, expiresAt: session.expiresAt };
  } catch (error) {
    if (storeError(error)?.conflict) throw new ApiError("username_taken", { param: "username" });
    throw error;
  }
}

type SignIn = { username: string; password: string };

/**
 * Signs a user in. An unknown user, a wrong password and a disabled user look the same and take the same time. `concerns` is
 * told whose name was tried, so that the audit log has it also when the sign-in fails. Throws `wrong_password`, `rate_limited`, `busy`.
 */
export async function signIn(
  deps: Deps,
  { username, password }: SignIn,
  address: string,
  concerns: (userId: string) => void,
): Promise<SignedIn> {
  const { store, config } = deps;
  const now = new Date(deps.now());
  const limit = signinLimit(throttleAddress(address), config.throttle.signinPerMinute);
  const [tried, [found], failures] = await store.atomic((q) => [
    countTry(q, store, limit, now),
    users.credentialsOf(q, store, username),
    throttles.find(q, store, failureKey(username)),
  ]);
  if (found) concerns(found.id);
  refuseOver(limit, tried, now);
  refuseBlocked(failures, now);
  const right = await deps.passwords.verify(found?.passwordHash ?? null, password);
  if (!found || !right || found.disabledAt) {
    await countFailure(store, username, config.throttle.signinFailures, now);
    throw new ApiError("wrong_password");
  }
  const { session, minted } = newSession(deps, found.id);
  const [[user]] = await store.atomic((q) => [
    users.confirm(q, store, found),
    sessions.insert(q, store, session, minted),
    throttles.clear(q, store, failureKey(username)),
  ]);
  if (!user) {
    // The password was changed while it was checked. Nobody has the new token.
    await sessions.remove(store, session.id, found.id);
    throw new ApiError("wrong_password");
  }
  return { user, token: minted.token, expiresAt: session.expiresAt };
}

type PasswordChange = { userId: string; username: string; sessionId: string; password: string; newPassword: string };

/** Changes one's own password and ends one's other sign-ins. Throws `wrong_password`, `rate_limited`, `busy`. */
export async function changePassword(
  deps: Deps,
  { userId, username, sessionId, password, newPassword }: PasswordChange,
): Promise<void> {
  const { store, config } = deps;
  const now = new Date(deps.now());
  const [[found], failures] = await store.atomic((q) => [
    users.credentialsOf(q, store, username),
    throttles.find(q, store, failureKey(username)),
  ]);
  refuseBlocked(failures, now);
  const wrong = new ApiError("wrong_password", { message: "The current password is wrong.", param: "password" });
  if (!(await deps.passwords.verify(found?.passwordHash ?? null, password))) {
    await countFailure(store, username, config.throttle.signinFailures, now);
    throw wrong;
  }
  const passwordHash = await deps.passwords.hash(newPassword);
  const [[changed]] = await store.atomic((q) => [
    users.setPassword(q, store, userId, passwordHash, now, found?.passwordHash),
    sessions.removeOthers(q, store, userId, sessionId, passwordHash),
    throttles.clear(q, store, failureKey(username)),
  ]);
  // Another change, or an administrator's reset, came first.
  if (!changed) throw wrong;
}

type NewAccount = { username: string; password: string; admin: boolean };

/** Adds a user without signing them in: what an operator does, whatever SIGNUP says. Throws `username_taken`. */
export async function createUser(deps: Deps, { username, password, admin }: NewAccount): Promise<users.UserView> {
  const { store } = deps;
  const createdAt = new Date(deps.now());
  const passwordHash = await deps.passwords.hash(password);
  const user = { id: deps.newId(), username, name: null, passwordHash, admin, createdAt };
  try {
    const [, [added]] = await store.atomic((q) => [users.insert(q, store, user), users.select(q, store, user.id)]);
    return added as users.UserView;
  } catch (error) {
    if (storeError(error)?.conflict) throw new ApiError("username_taken", { param: "username" });
    throw error;
  }
}

type Account = { id: string; username: string };

/** Gives a user a new password and ends all that the old one led to: every sign-in, every API key, and a blocked sign-in. */
export async function resetPassword(deps: Deps, { id, username }: Account, newPassword: string): Promise<void> {
  const { store } = deps;
  const now = new Date(deps.now());
  const hash = await deps.passwords.hash(newPassword);
  await store.atomic((q) => [
    users.setPassword(q, store, id, hash, now),
    sessions.removeAll(q, store, id),
    throttles.clear(q, store, failureKey(username)),
  ]);
}

/** Shuts a user out: no sign-in from now on, and every session and API key has ended. */
export async function disableUser({ store, now }: Deps, id: string): Promise<void> {
  const at = new Date(now());
  await store.atomic((q) => [users.setDisabled(q, store, id, at), sessions.removeAll(q, store, id)]);
}

/** Makes an API key. The token is in the answer and nowhere else. */
export async function mintKey(deps: Deps, userId: string, label: string, expiresAt: Date | undefined) {
  const { store } = deps;
  const minted = mintToken("key", deps.random);
  const createdAt = new Date(deps.now());
  const end = expiresAt ?? NEVER;
  if (end <= createdAt) throw new ApiError("invalid_input", { message: "expires_at is in the past.", param: "expires_at" });
  const key: sessions.NewSession = { id: deps.newId(), userId, kind: "key", label, createdAt, expiresAt: end, endsAt: end };
  await sessions.insert(store.db, store, key, minted);
  return { token: minted.token, key: { ...key, hint: minted.hint, lastUsedAt: createdAt } };
}

function newSession({ now, newId, random, config }: Deps, userId: string) {
  const at = now();
  const session: sessions.NewSession = {
    id: newId(),
    userId,
    kind: "session",
    label: null,
    createdAt: new Date(at),
    expiresAt: new Date(at + config.session.slidingMs),
    endsAt: new Date(at + config.session.absoluteMs),
  };
  return { session, minted: mintToken("session", random) };
}

function same(given: string, right: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(right)];
  return a.length === b.length && timingSafeEqual(a, b);
}
