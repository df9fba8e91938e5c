import { and, eq, gt, inArray, isNull, ne, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";
import type { Minted } from "../token.ts";

export type NewSession = {
  id: string;
  userId: string;
  kind: "session" | "key";
  label: string | null;
  createdAt: Date;
  /** When it ends unless it is used; use moves this on, up to `endsAt`. */
  expiresAt: Date;
  endsAt: Date;
};
export type SessionView = Omit<Store["sessions"]["$inferSelect"], "hash">;

/** The statement that stores a new session; the token itself is never stored. For use in `atomic`. */
export function insert(q: Store["db"], { sessions }: Store, session: NewSession, { hash, hint }: Minted) {
  return q
    .insert(sessions)
    .values({ ...session, hash, hint, lastUsedAt: session.createdAt })
    .onConflictDoNothing();
}

/** The live session of a token, with its user's id; null when unknown, expired or of a disabled user. */
export async function findByHash({ db, sessions, users }: Store, hash: string, now: Date) {
  const [found] = await db
    .select({ id: sessions.id, userId: sessions.userId })
    .from(sessions)
    .innerJoin(users, eq(users.id, sessions.userId))
    .where(and(eq(sessions.hash, hash), gt(sessions.expiresAt, now), isNull(users.disabledAt)));
  return found ?? null;
}

/** Which of the sessions are still good: not ended, not expired, and of a user who is not disabled. */
export async function liveAmong({ db, sessions, users }: Store, ids: readonly string[], now: Date): Promise<ReadonlySet<string>> {
  const rows = await db
    .select({ id: sessions.id })
    .from(sessions)
    .innerJoin(users, eq(users.id, sessions.userId))
    .where(and(inArray(sessions.id, [...ids]), gt(sessions.expiresAt, now), isNull(users.disabledAt)));
  return new Set(rows.map(({ id }) => id));
}

/** One of the user's own sessions or keys. */
export async function findForUser(store: Store, id: string, userId: string): Promise<SessionView | null> {
  const { db, sessions } = store;
  const [found] = await db
    .select(columns(store))
    .from(sessions)
    .where(and(eq(sessions.id, id), eq(sessions.userId, userId)));
  return found ?? null;
}

/** The user's sign-ins and API keys that have not expired, newest first. */
export async function listAll(store: Store, userId: string, now: Date): Promise<SessionView[]> {
  const { db, sessions } = store;
  return db
    .select(columns(store))
    .from(sessions)
    .where(and(eq(sessions.userId, userId), gt(sessions.expiresAt, now)))
    .orderBy(sql`${sessions.createdAt} desc, ${sessions.id} desc`);
}

/** The user's API keys that have not expired, newest first. */
export async function listKeys(store: Store, userId: string, now: Date): Promise<SessionView[]> {
  const { db, sessions } = store;
  return db
    .select(columns(store))
    .from(sessions)
    .where(and(eq(sessions.userId, userId), eq(sessions.kind, "key"), gt(sessions.expiresAt, now)))
    .orderBy(sql`${sessions.createdAt} desc, ${sessions.id} desc`);
}

/** Records use, and moves a sign-in's expiry on as far as its absolute end allows. */
export async function touch({ db, sessions }: Store, id: string, now: Date, slidingEnd: Date): Promise<void> {
  const end = sessions.expiresAt.mapToDriverValue(slidingEnd);
  const later = sql`case when ${sessions.kind} = 'key' then ${sessions.expiresAt} when ${sessions.endsAt} < ${end} then ${sessions.endsAt} else ${end} end`;
  await db.update(sessions).set({ lastUsedAt: now, expiresAt: later }).where(eq(sessions.id, id));
}

/** Ends one of the user's own sessions or keys; false when there was none of that kind. */
export async function remove({ db, sessions }: Store, id: string, userId: string, kind?: "session" | "key"): Promise<boolean> {
  const mine = and(eq(sessions.id, id), eq(sessions.userId, userId), kind && eq(sessions.kind, kind));
  const gone = await db.delete(sessions).where(mine).returning({ id: sessions.id });
  return gone.length > 0;
}

/** The statement that ends every session and key of a user. For use in `atomic`. */
export function removeAll(q: Store["db"], { sessions }: Store, userId: string) {
  return q.delete(sessions).where(eq(sessions.userId, userId));
}

/**
 * The statement that ends a user's sign-ins, but for the one to keep; API keys stay. With a hash only once that is the user's
 * password. For use in `atomic`.
 */
export function removeOthers(q: Store["db"], store: Store, userId: string, keepId: string, passwordHash?: string) {
  const { sessions, users } = store;
  const others = and(eq(sessions.userId, userId), eq(sessions.kind, "session"), ne(sessions.id, keepId));
  const changed = sql`exists (select 1 from ${users} where ${users.id} = ${userId} and ${users.passwordHash} = ${passwordHash})`;
  return q.delete(sessions).where(passwordHash === undefined ? others : and(others, changed));
}

/** Deletes up to `limit` sessions that have expired; answers how many went. */
export async function pruneExpired({ db, sessions }: Store, now: Date, limit: number): Promise<number> {
  const expired = db
    .select({ hash: sessions.hash })
    .from(sessions)
    .where(sql`${sessions.expiresAt} <= ${sessions.expiresAt.mapToDriverValue(now)}`)
    .limit(limit);
  const gone = await db.delete(sessions).where(sql`${sessions.hash} in ${expired}`).returning({ id: sessions.id });
  return gone.length;
}

const columns = ({ sessions: s }: Store) => ({
  id: s.id,
  userId: s.userId,
  kind: s.kind,
  label: s.label,
  hint: s.hint,
  createdAt: s.createdAt,
  lastUsedAt: s.lastUsedAt,
  expiresAt: s.expiresAt,
  endsAt: s.endsAt,
});
