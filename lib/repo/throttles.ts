import { eq, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";

/** A counter that starts again once its window has passed, and may block until an instant. */
export type Throttle = { count: number; since: Date; blockedUntil: Date };

/** The counter of a key, as it stands. */
export function find(q: Store["db"], { throttles }: Store, key: string) {
  const { count, since, blockedUntil } = throttles;
  return q.select({ count, since, blockedUntil }).from(throttles).where(eq(throttles.key, key));
}

/** The statement that counts one more and answers the count, starting again at 1 when the window and the last block are over. */
export function count(q: Store["db"], { throttles }: Store, key: string, now: Date, windowStart: Date) {
  const start = throttles.since.mapToDriverValue(windowStart);
  const over = sql`${throttles.since} < ${start} and ${throttles.blockedUntil} < ${start}`;
  const nowValue = throttles.since.mapToDriverValue(now);
  return q
    .insert(throttles)
    .values({ key, count: 1, since: now, blockedUntil: now })
    .onConflictDoUpdate({
      target: throttles.key,
      set: {
        count: sql`case when ${over} then 1 else ${throttles.count} + 1 end`,
        since: sql`case when ${over} then ${nowValue} else ${throttles.since} end`,
      },
    })
    .returning({ count: throttles.count, since: throttles.since, blockedUntil: throttles.blockedUntil });
}

/** Refuses the key until the instant. */
export async function block({ db, throttles }: Store, key: string, blockedUntil: Date): Promise<void> {
  await db.update(throttles).set({ blockedUntil }).where(eq(throttles.key, key));
}

/** The statement that forgets a key. */
export function clear(q: Store["db"], { throttles }: Store, key: string) {
  return q.delete(throttles).where(eq(throttles.key, key));
}

/** Deletes counters that began before the instant; answers how many went. */
export async function prune({ db, throttles }: Store, before: Date): Promise<number> {
  const old = sql`${throttles.since} < ${throttles.since.mapToDriverValue(before)}`;
  return (await db.delete(throttles).where(old).returning({ key: throttles.key })).length;
}
