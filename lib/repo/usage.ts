import { and, asc, eq, gte, lte } from "drizzle-orm";
import type { Store } from "../store/store.ts";

/** What one user did on one day, in UTC. */
export type DayOfUse = {
  userId: string;
  username: string;
  /** `2026-08-02`. */
  day: string;
  requests: number;
  promptTokens: number;
  completionTokens: number;
};

/** Requests and tokens by day and user, oldest first. `from` and `to` are days, both included. */
export async function list(
  { db, usage, users }: Store,
  { userId, from, to }: { userId?: string; from?: string | undefined; to?: string | undefined },
): Promise<DayOfUse[]> {
  const { day, requests, promptTokens, completionTokens } = usage;
  return db
    .select({ userId: usage.userId, username: users.username, day, requests, promptTokens, completionTokens })
    .from(usage)
    .innerJoin(users, eq(users.id, usage.userId))
    .where(and(userId ? eq(usage.userId, userId) : undefined, from ? gte(day, from) : undefined, to ? lte(day, to) : undefined))
    .orderBy(asc(day), asc(users.username));
}
