import { eq } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { expect, test } from "vitest";
import * as sessions from "../../lib/repo/sessions.ts";
import * as throttles from "../../lib/repo/throttles.ts";
import * as users from "../../lib/repo/users.ts";
import type { Store } from "../../lib/store/store.ts";
import { mintToken } from "../../lib/token.ts";
import { at, DAY_MS, newName, newSession, newUser, signedIn } from "./people.ts";

/** Users, sessions, throttles. The first test must be the first that a store's data sees: it is about an empty store. */
export function peopleSuite(current: () => Store): void {
  usersSuite(current);
  sessionsSuite(current);
  throttlesSuite(current);
}

function usersSuite(current: () => Store): void {
  test("a user is kept as given: text in any script, nulls, flags, times to the millisecond", async () => {
    const store = current();
    const user = newUser({ name: "Zoë 🎉 日本 'quoted' \\ \"too\"", admin: true, createdAt: at(1) });
    await users.insert(store.db, store, user);
    const { passwordHash: _, ...view } = user;
    const expected = { ...view, disabledAt: null, updatedAt: at(1) };
    expect(await users.find(store, user.id)).toEqual(expected);
    expect(await users.findByUsername(store, user.username)).toEqual(expected);
    expect(await users.findByUsername(store, user.username.toUpperCase())).toBeNull();
    expect(await users.find(store, uuidv7())).toBeNull();

    const nameless = newUser();
    await users.insert(store.db, store, nameless);
    expect(await users.find(store, nameless.id)).toMatchObject({ name: null, admin: false });
  });

  test("what a sign-in needs is read for a disabled user too", async () => {
    const store = current();
    const user = newUser();
    await users.insert(store.db, store, user);
    const { id, username, passwordHash } = user;
    expect(await users.credentialsOf(store.db, store, username)).toEqual([{ id, passwordHash, disabledAt: null }]);
    expect(await users.setDisabled(store.db, store, id, at(2))).toEqual([{ id }]);
    expect(await users.credentialsOf(store.db, store, username)).toEqual([{ id, passwordHash, disabledAt: at(2) }]);
    expect(await users.setDisabled(store.db, store, id, null)).toEqual([{ id }]);
    expect(await users.find(store, id)).toMatchObject({ disabledAt: null });
    expect(await users.setDisabled(store.db, store, uuidv7(), at())).toEqual([]);
  });

  test("users are listed by name, a page at a time", async () => {
    const store = current();
    const prefix = newName("list");
    const people = ["a", "b", "c", "d"].map((letter) => newUser({ username: `${prefix}${letter}` }));
    for (const user of [...people].reverse()) await users.insert(store.db, store, user);
    const first = await users.list(store, prefix, 2);
    expect(first.map(({ username }) => username)).toEqual([`${prefix}a`, `${prefix}b`]);
    const second = await users.list(store, first.at(-1)?.username, 2);
    expect(second.map(({ username }) => username)).toEqual([`${prefix}c`, `${prefix}d`]);
    expect(Object.keys(first[0] ?? {})).not.toContain("passwordHash");
  });

  test("a change answers the record, says when a name is taken, and finds nobody for an unknown id", async () => {
    const store = current();
    const [user, other] = [newUser({ name: "Old" }), newUser()];
    await store.atomic((q) => [users.insert(q, store, user), users.insert(q, store, other)]);
    const username = newName();
    expect(await users.update(store, user.id, { username }, at(3))).toMatchObject({ username, name: "Old", updatedAt: at(3) });
    expect(await users.update(store, user.id, { name: "New 🎉", admin: true }, at(4))).toMatchObject({
      username,
      name: "New 🎉",
      admin: true,
      createdAt: at(),
      updatedAt: at(4),
    });
    expect(await users.update(store, user.id, { username: other.username, name: "Lost" }, at(5))).toBe("taken");
    expect(await users.find(store, user.id)).toMatchObject({ username, name: "New 🎉", updatedAt: at(4) });
    expect(await users.update(store, uuidv7(), { name: "Nobody" }, at(5))).toBeNull();
  });

  test("a password is replaced for one user only", async () => {
    const store = current();
    const [user, other] = [newUser(), newUser()];
    await store.atomic((q) => [users.insert(q, store, user), users.insert(q, store, other)]);
    expect(await users.setPassword(store.db, store, user.id, "$argon2id$new", at(9))).toEqual([{ id: user.id }]);
    expect(await users.credentialsOf(store.db, store, user.username)).toMatchObject([{ passwordHash: "$argon2id$new" }]);
    expect(await users.credentialsOf(store.db, store, other.username)).toMatchObject([{ passwordHash: other.passwordHash }]);
    expect(await users.find(store, user.id)).toMatchObject({ updatedAt: at(9) });
  });
}

function sessionsSuite(current: () => Store): void {
  test("a session is found by its token's hash until it expires, and not for a disabled user", async () => {
    const store = current();
    const { user, session, hash } = await signedIn(store);
    const found = { id: session.id, userId: user.id };
    expect(await sessions.findByHash(store, hash, at())).toEqual(found);
    expect(await sessions.findByHash(store, hash, at(7 * DAY_MS - 1))).toEqual(found);
    expect(await sessions.findByHash(store, hash, at(7 * DAY_MS))).toBeNull();
    expect(await sessions.findByHash(store, "nothing", at())).toBeNull();
    await users.setDisabled(store.db, store, user.id, at());
    expect(await sessions.findByHash(store, hash, at())).toBeNull();
  });

  test("a session that is stored again is one session, as it was first", async () => {
    const store = current();
    const { user, session, hash } = await signedIn(store);
    await sessions.insert(store.db, store, { ...session, label: "again" }, { token: "", hash, hint: "late" });
    const rows = await store.db.select().from(store.sessions).where(eq(store.sessions.userId, user.id));
    expect(rows).toMatchObject([{ hash, id: session.id, label: null, lastUsedAt: at(), expiresAt: session.expiresAt }]);
  });

  test("one sees and ends one's own sessions only, of the kind that is meant, and never the hash", async () => {
    const store = current();
    const [anna, ben] = [await signedIn(store), await signedIn(store)];
    const view = await sessions.findForUser(store, anna.session.id, anna.user.id);
    expect(view).toEqual({ ...anna.session, hint: expect.any(String), lastUsedAt: at() });
    expect(await sessions.findForUser(store, anna.session.id, ben.user.id)).toBeNull();
    expect(await sessions.remove(store, anna.session.id, ben.user.id)).toBe(false);
    expect(await sessions.remove(store, anna.session.id, anna.user.id, "key")).toBe(false);
    expect(await sessions.findByHash(store, anna.hash, at())).not.toBeNull();
    expect(await sessions.remove(store, anna.session.id, anna.user.id, "session")).toBe(true);
    expect(await sessions.remove(store, anna.session.id, anna.user.id)).toBe(false);
    expect(await sessions.findByHash(store, anna.hash, at())).toBeNull();
  });

  test("keys are listed newest first, without sign-ins and what has expired", async () => {
    const store = current();
    const { user } = await signedIn(store);
    const key = (label: string, createdAt: Date, expiresAt: Date) =>
      newSession(user.id, { kind: "key", label, createdAt, expiresAt, endsAt: expiresAt });
    const keys = [
      key("old", at(), new Date("9999-12-31T00:00:00Z")),
      key("new 🎉", at(1), at(DAY_MS)),
      key("over", at(2), at(10)),
      key("as new", at(1), at(DAY_MS)),
    ];
    for (const it of keys) await sessions.insert(store.db, store, it, mintToken("key"));
    const listed = await sessions.listKeys(store, user.id, at(10));
    expect(listed.map(({ label }) => label)).toEqual(["as new", "new 🎉", "old"]);
    expect(listed.at(-1)?.expiresAt).toEqual(new Date("9999-12-31T00:00:00Z"));
    expect(await sessions.listKeys(store, uuidv7(), at())).toEqual([]);
  });

  test("use moves a sign-in's end on as far as its last day, and a key's never", async () => {
    const store = current();
    const { user, session } = await signedIn(store);
    const key = newSession(user.id, { kind: "key", label: "k", expiresAt: at(40 * DAY_MS), endsAt: at(40 * DAY_MS) });
    await sessions.insert(store.db, store, key, mintToken("key"));
    const read = (id: string) => sessions.findForUser(store, id, user.id);

    await sessions.touch(store, session.id, at(DAY_MS), at(8 * DAY_MS));
    expect(await read(session.id)).toMatchObject({ lastUsedAt: at(DAY_MS), expiresAt: at(8 * DAY_MS), endsAt: at(30 * DAY_MS) });
    await sessions.touch(store, session.id, at(29 * DAY_MS), at(36 * DAY_MS));
    expect(await read(session.id)).toMatchObject({ lastUsedAt: at(29 * DAY_MS), expiresAt: at(30 * DAY_MS) });
    await sessions.touch(store, key.id, at(DAY_MS), at(80 * DAY_MS));
    expect(await read(key.id)).toMatchObject({ lastUsedAt: at(DAY_MS), expiresAt: at(40 * DAY_MS), createdAt: at() });
  });

  test("ending other sign-ins keeps this one, the keys and everyone else's; ending all keeps nothing", async () => {
    const store = current();
    const [{ user, session, hash }, stranger] = [await signedIn(store), await signedIn(store)];
    const add = async (kind: "session" | "key") => {
      const minted = mintToken(kind);
      await sessions.insert(store.db, store, newSession(user.id, { kind }), minted);
      return minted.hash;
    };
    const [other, key] = [await add("session"), await add("key")];
    const alive = async () =>
      Promise.all([hash, other, key, stranger.hash].map(async (it) => (await sessions.findByHash(store, it, at())) !== null));
    await sessions.removeOthers(store.db, store, user.id, session.id);
    expect(await alive()).toEqual([true, false, true, true]);
    await sessions.removeAll(store.db, store, user.id);
    expect(await alive()).toEqual([false, false, false, true]);
  });

  test("expired sessions are pruned, as many as asked for, and no other", async () => {
    const store = current();
    const past = (ms: number) => ({ expiresAt: at(ms), endsAt: at(ms) });
    const long = -400 * DAY_MS;
    const old = await Promise.all([0, 1, 2].map((ms) => signedIn(store, {}, past(long + ms))));
    const edge = await signedIn(store, {}, past(long + 3));
    expect(await sessions.pruneExpired(store, at(long + 2), 2)).toBe(2);
    expect(await sessions.pruneExpired(store, at(long + 2), 100)).toBe(1);
    expect(await sessions.pruneExpired(store, at(long + 2), 100)).toBe(0);
    const left = await Promise.all([...old, edge].map(({ session, user }) => sessions.findForUser(store, session.id, user.id)));
    expect(left.map((found) => found?.id)).toEqual([undefined, undefined, undefined, edge.session.id]);
  });
}

function throttlesSuite(current: () => Store): void {
  test("a throttle counts within its window and begins again after it", async () => {
    const store = current();
    const key = newName("signin:");
    const count = (now: Date) => throttles.count(store.db, store, key, now, new Date(now.getTime() - 1_000));
    expect(await throttles.find(store.db, store, key)).toEqual([]);
    expect(await count(at())).toEqual([{ count: 1, since: at(), blockedUntil: at() }]);
    expect(await count(at(999))).toMatchObject([{ count: 2, since: at() }]);
    expect(await count(at(1_000))).toMatchObject([{ count: 3, since: at() }]);
    expect(await count(at(1_001))).toMatchObject([{ count: 1, since: at(1_001) }]);
    await throttles.block(store, key, at(60_001));
    expect(await throttles.find(store.db, store, key)).toEqual([{ count: 1, since: at(1_001), blockedUntil: at(60_001) }]);
    expect(await count(at(1_002))).toMatchObject([{ count: 2, blockedUntil: at(60_001) }]);
    await throttles.clear(store.db, store, key);
    expect(await throttles.find(store.db, store, key)).toEqual([]);
  });

  test("tries at the same time are all counted", async () => {
    const store = current();
    const key = newName("signin:");
    const counted = await Promise.all(
      Array.from({ length: 25 }, () => throttles.count(store.db, store, key, at(), at(-1_000)).then(([it]) => it?.count)),
    );
    expect(counted.toSorted((a = 0, b = 0) => a - b)).toEqual(Array.from({ length: 25 }, (_, i) => i + 1));
  });

  test("throttles that began long ago are pruned", async () => {
    const store = current();
    const [old, young] = [newName("old:"), newName("young:")];
    const long = at(-400 * DAY_MS);
    await throttles.count(store.db, store, old, long, long);
    await throttles.count(store.db, store, young, new Date(long.getTime() + 1), long);
    expect(await throttles.prune(store, new Date(long.getTime() + 1))).toBe(1);
    expect(await throttles.find(store.db, store, old)).toEqual([]);
    expect(await throttles.find(store.db, store, young)).toHaveLength(1);
  });
}
