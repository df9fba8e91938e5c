import { and, desc, eq, gte, like, lt, lte, or, type SQL, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";

export type EventFilter = {
  user?: string | undefined;
  group?: string | undefined;
  chat?: string | undefined;
  endpoint?: string | undefined;
  model?: string | undefined;
  status?: number | undefined;
  since?: Date | undefined;
  until?: Date | undefined;
  text?: string | undefined;
  /** Only events older than this id (`next` of the page before). */
  before?: string | undefined;
  /** Only events newer than this id; then the oldest come first. */
  after?: string | undefined;
  limit: number;
};
export type EventRow = Store["events"]["$inferSelect"];

/** An event whose end was never written is running while it may be, and interrupted after that. */
export const stateOf = ({ endedAt, startedAt }: Pick<EventRow, "endedAt" | "startedAt">, interruptedBefore: Date) =>
  endedAt ? "done" : startedAt < interruptedBefore ? "interrupted" : "running";

/** Events that match, newest first (oldest first with `after`), paged by id; ids are UUIDv7, so they order by time. */
export async function search({ db, events }: Store, filter: EventFilter): Promise<EventRow[]> {
  const equals = [
    filter.user && eq(events.userId, filter.user),
    filter.group && eq(events.groupId, filter.group),
    filter.chat && eq(events.chatId, filter.chat),
    filter.endpoint && eq(events.endpoint, filter.endpoint),
    filter.model && eq(events.model, filter.model),
    filter.status && eq(events.status, filter.status),
    filter.since && gte(events.id, firstIdAt(filter.since)),
    filter.until && lt(events.id, firstIdAt(filter.until)),
    filter.before && lt(events.id, filter.before),
    filter.after && sql`${events.id} > ${filter.after}`,
    filter.text && containing(events, filter.text),
  ].filter((condition): condition is SQL => typeof condition === "object");
  return db
    .select()
    .from(events)
    .where(and(...equals))
    .orderBy(filter.after ? events.id : desc(events.id))
    .limit(filter.limit);
}

/** Deletes up to `limit` events that started before the instant; answers how many went. */
export async function prune({ db, events }: Store, before: Date, limit: number): Promise<number> {
  const oldest = db
    .select({ id: events.id })
    .from(events)
    .where(lte(events.id, firstIdAt(before)))
    .orderBy(events.id)
    .limit(limit);
  const gone = await db.delete(events).where(sql`${events.id} in ${oldest}`).returning({ id: events.id });
  return gone.length;
}

function containing(events: Store["events"], text: string): SQL | undefined {
  const pattern = `%${text.replace(/[\\%_]/g, "\\$&")}%`;
  const holds = (column: typeof events.path | typeof events.requestBody) => sql`${like(column, pattern)} escape '\\'`;
  return or(holds(events.path), holds(events.requestBody), holds(events.responseBody), holds(events.query));
}

/** The smallest UUIDv7 of an instant. */
function firstIdAt(at: Date): string {
  const hex = Math.max(0, at.getTime()).toString(16).padStart(12, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-7000-8000-000000000000`;
}
