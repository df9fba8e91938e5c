import { and, eq, gt, inArray, lte, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";

export type NewTicket = { hash: string; sessionId: string; expiresAt: Date };

/**
 * Stores a ticket, which opens one stream in the name of its session and goes when that goes. False: the session has gone
 * already.
 */
export async function insert(store: Store, { hash, sessionId, expiresAt }: NewTicket): Promise<boolean> {
  const { db, tickets, sessions } = store;
  const expiry = sql`cast(${tickets.expiresAt.mapToDriverValue(expiresAt)} as ${sql.raw(tickets.expiresAt.getSQLType())})`;
  const made = await db
    .insert(tickets)
    .select(
      sql`select cast(${hash} as text), ${sessions.hash}, ${expiry} from ${sessions}
        where ${sessions.id} = ${sessionId}` as never,
    )
    .onConflictDoNothing()
    .returning({ hash: tickets.hash });
  return made.length > 0;
}

/** Takes a ticket, so that nobody takes it again: the hash of its session. Null: it is unknown, was taken, or has expired. */
export async function redeem({ db, tickets }: Store, hash: string, now: Date): Promise<string | null> {
  const [taken] = await db
    .delete(tickets)
    .where(and(eq(tickets.hash, hash), gt(tickets.expiresAt, now)))
    .returning({ sessionHash: tickets.sessionHash });
  return taken?.sessionHash ?? null;
}

/** Deletes up to `limit` tickets that nobody took in time; answers how many went. */
export async function pruneExpired({ db, tickets }: Store, now: Date, limit: number): Promise<number> {
  const expired = db.select({ hash: tickets.hash }).from(tickets).where(lte(tickets.expiresAt, now)).limit(limit);
  const gone = await db.delete(tickets).where(inArray(tickets.hash, expired)).returning({ hash: tickets.hash });
  return gone.length;
}
