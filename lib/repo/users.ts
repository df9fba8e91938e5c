import { and, asc, eq, gt, inArray, isNotNull, isNull, or, type SQL, sql } from "drizzle-orm";
import { compiled, given, reading } from "../store/compiled.ts";
import { type Store, storeError } from "../store/store.ts";

export type UserView = Omit<Store["users"]["$inferSelect"], "passwordHash">;
export type NewUser = {
  id: string;
  username: string;
  name: string | null;
  passwordHash: string;
  admin: boolean;
  createdAt: Date;
};

/** The statement that adds a user; a taken username fails the whole write as a conflict. For use in `atomic`. */
export function insert(q: Store["db"], { users }: Store, user: NewUser) {
  return q.insert(users).values({ ...user, updatedAt: user.createdAt });
}

/**
 * The statements by which the first user of an empty store, and nobody else, becomes an admin: of two who sign up at the
 * same time one writes the setting, and the other finds it. For use in `atomic`, after the insert of the user.
 */
export function makeFirstAdmin(q: Store["db"], { users, settings }: Store, userId: string) {
  const alone = sql`select 'first_admin', ${userId} where not exists (select 1 from ${users} where ${users.id} <> ${userId})`;
  const isFirst = sql`(select ${settings.value} from ${settings} where ${settings.key} = 'first_admin') = ${userId}`;
  return [
    q
      .insert(settings)
      .select(alone as never)
      .onConflictDoNothing(),
    q
      .update(users)
      .set({ admin: true })
      .where(and(eq(users.id, userId), isFirst))
      .returning({ id: users.id }),
  ] as const;
}

/** The statement that reads a user by id. For use in `atomic`. */
export const select = (q: Store["db"], store: Store, id: string | SQL) =>
  q.select(columns(store)).from(store.users).where(eq(store.users.id, id));

/** A user by id. */
export async function find(store: Store, id: string): Promise<UserView | null> {
  const [[found]] = await byId(store, { id });
  return found ?? null;
}

const byId = compiled((store) => [reading(columns(store), select(store.db, store, given("id")))] as const);

/** A user by username, in its canonical form. */
export async function findByUsername(store: Store, username: string): Promise<UserView | null> {
  const [found] = await store.db.select(columns(store)).from(store.users).where(eq(store.users.username, username));
  return found ?? null;
}

/** What a sign-in needs: also a disabled user's, so that both take the same time. */
export function credentialsOf(q: Store["db"], { users }: Store, username: string) {
  const { id, passwordHash, disabledAt } = users;
  return q.select({ id, passwordHash, disabledAt }).from(users).where(eq(users.username, username));
}

/** All users, by username, from the one after `after`. */
export async function list(store: Store, after = "", limit = 100): Promise<UserView[]> {
  const { db, users } = store;
  return db.select(columns(store)).from(users).where(gt(users.username, after)).orderBy(asc(users.username)).limit(limit);
}

/** The users of ids and usernames, without those who are disabled. */
export async function findAmong({ db, users }: Store, ids: readonly string[], usernames: readonly string[]) {
  const { id, username } = users;
  return db
    .select({ id, username })
    .from(users)
    .where(and(isNull(users.disabledAt), or(inArray(id, [...ids]), inArray(username, [...usernames]))));
}

/** The usernames of ids, by id. */
export async function usernamesOf({ db, users }: Store, ids: readonly string[]): Promise<Map<string, string>> {
  if (ids.length === 0) return new Map();
  const { id, username } = users;
  const rows = await db
    .select({ id, username })
    .from(users)
    .where(inArray(id, [...ids]));
  return new Map(rows.map((row) => [row.id, row.username]));
}

/** Changes a user and answers the record; null when there is none, "taken" when the new username is another's. */
export async function update(
  store: Store,
  id: string,
  change: { username?: string; name?: string; admin?: boolean },
  at: Date,
): Promise<UserView | "taken" | null> {
  const { db, users } = store;
  try {
    const [changed] = await db
      .update(users)
      .set({ ...change, updatedAt: at })
      .where(eq(users.id, id))
      .returning(columns(store));
    return changed ?? null;
  } catch (error) {
    if (storeError(error)?.conflict) return "taken";
    throw error;
  }
}

/** Makes an admin a user like others; null, and nothing changes, when no other admin could sign in and `evenLast` is false. */
export async function revokeAdmin(store: Store, id: string, at: Date, evenLast: boolean): Promise<UserView | null> {
  const { db, users } = store;
  const another = sql`exists (select 1 from ${users} o where o.id <> ${id} and o.admin and o.disabled_at is null)`;
  const [changed] = await db
    .update(users)
    .set({ admin: false, updatedAt: at })
    .where(and(eq(users.id, id), evenLast ? undefined : or(another, isNotNull(users.disabledAt), eq(users.admin, false))))
    .returning(columns(store));
  return changed ?? null;
}

/**
 * The statement that answers a user whose password is still the one that was checked, and who is not disabled. It writes, so
 * that a change at the same time waits for the sign-in, or the sign-in for the change. For use in `atomic`.
 */
export function confirm(q: Store["db"], store: Store, { id, passwordHash }: { id: string; passwordHash: string }) {
  const { users } = store;
  return q
    .update(users)
    .set({ passwordHash })
    .where(and(eq(users.id, id), eq(users.passwordHash, passwordHash), isNull(users.disabledAt)))
    .returning(columns(store));
}

/** The statement that replaces a password, where `from` is given only if that is still its hash. For use in `atomic`. */
export function setPassword(q: Store["db"], { users }: Store, id: string, passwordHash: string, at: Date, from?: string) {
  const unchanged = from === undefined ? undefined : eq(users.passwordHash, from);
  return q
    .update(users)
    .set({ passwordHash, updatedAt: at })
    .where(and(eq(users.id, id), unchanged))
    .returning({ id: users.id });
}

/** The statement that disables a user, or enables one again. For use in `atomic`. */
export function setDisabled(q: Store["db"], { users }: Store, id: string, disabledAt: Date | null) {
  return q.update(users).set({ disabledAt }).where(eq(users.id, id)).returning({ id: users.id });
}

const columns = ({ users: u }: Store) => ({
  id: u.id,
  username: u.username,
  name: u.name,
  admin: u.admin,
  disabledAt: u.disabledAt,
  createdAt: u.createdAt,
  updatedAt: u.updatedAt,
});
