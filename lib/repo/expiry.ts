import { and, eq, gt, lte, type SQL, sql } from "drizzle-orm";
import { given } from "../store/compiled.ts";
import type { Store } from "../store/store.ts";

/** Which messages have not expired; the one place that says so. Undefined, where none ever does. */
export function kept({ messages, expiredAt }: Store): SQL | undefined {
  const at = expiredAt();
  return at ? gt(messages.createdAt, at) : undefined;
}

/** The same in a compiled statement, which is given `expiredAt`. */
export const keptAsGiven = ({ messages, expiredAt }: Store): SQL | undefined =>
  expiredAt() ? gt(messages.createdAt, given("expiredAt", messages.createdAt)) : undefined;

/** Deletes up to `limit` messages that have expired, the oldest first; answers how many went. */
export async function prune({ db, messages, expiredAt, leavingTaken }: Store, limit: number): Promise<number> {
  const until = expiredAt();
  if (!until) return 0;
  const { id, createdAt } = messages;
  const expired = lte(createdAt, until);
  const oldest = sql`(with oldest as materialized (select ${id} from ${messages} where ${expired} order by ${createdAt}
    limit ${limit} ${leavingTaken}) select oldest.id from oldest)`;
  const gone = await db.delete(messages).where(sql`${id} in ${oldest}`).returning({ id });
  return gone.length;
}

/** Deletes a message, if it has expired; answers whether it had. */
export async function forget({ db, messages, expiredAt }: Store, { id }: { id: string }): Promise<boolean> {
  const until = expiredAt();
  if (!until) return false;
  const expired = and(eq(messages.id, id), lte(messages.createdAt, until));
  return (await db.delete(messages).where(expired).returning({ id: messages.id })).length > 0;
}
