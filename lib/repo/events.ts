import { and, asc, desc, eq, gte, inArray, lt, lte, or, type SQL, sql } from "drizzle-orm";
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
  /** Only these events. */
  ids?: readonly string[] | undefined;
  /** Only events older than this id (`next` of the page before). */
  before?: string | undefined;
  /** Only events newer than this id; then the oldest come first. */
  after?: string | undefined;
  limit: number;
};
type Row = Store["events"]["$inferSelect"];
type Outcome = Omit<Store["outcomes"]["$inferSelect"], "eventId">;
/** An event with its outcome; without one every field of it is null. */
export type EventRow = Row & { [K in keyof Outcome]: Outcome[K] | null };

/** No request lasts longer: it is the cloud's limit, and a Realtime session's. */
const LONGEST_MS = 3_600_000;

/** An event without an outcome is running while it may be, and interrupted after that: its instance was killed. */
export const stateOf = ({ endedAt, startedAt }: Pick<EventRow, "endedAt" | "startedAt">, nowMs: number) =>
  endedAt ? "done" : nowMs - startedAt.getTime() > LONGEST_MS ? "interrupted" : "running";

/** Events that match, newest first (oldest first with `after`), paged by id; ids are UUIDv7, so they order by time. */
export async function search(store: Store, filter: EventFilter): Promise<EventRow[]> {
  const { db, events, outcomes } = store;
  const equals = [
    filter.user && eq(events.userId, filter.user),
    filter.group && eq(events.groupId, filter.group),
    filter.chat && eq(events.chatId, filter.chat),
    filter.endpoint && eq(events.endpoint, filter.endpoint),
    filter.model && eq(outcomes.model, filter.model),
    filter.status && eq(outcomes.status, filter.status),
    filter.since && gte(events.id, firstIdAt(filter.since)),
    filter.until && lt(events.id, firstIdAt(filter.until)),
    filter.ids && inArray(events.id, [...filter.ids]),
    filter.before && lt(events.id, filter.before),
    filter.after && sql`${events.id} > ${filter.after}`,
    filter.text && containing(store, filter.text),
  ].filter((condition): condition is SQL => typeof condition === "object");
  return db
    .select(columns(store))
    .from(events)
    .leftJoin(outcomes, eq(outcomes.eventId, events.id))
    .where(and(...equals))
    .orderBy(filter.after ? events.id : desc(events.id))
    .limit(filter.limit);
}

/** Which events have ended: of those that started since the instant, whoever's they are, and of those named. Oldest first. */
export async function progress({ db, events, outcomes }: Store, since: Date, ids: readonly string[]) {
  const { id, startedAt } = events;
  return db
    .select({ id, startedAt, endedAt: outcomes.endedAt })
    .from(events)
    .leftJoin(outcomes, eq(outcomes.eventId, id))
    .where(or(gte(id, firstIdAt(since)), ids.length > 0 ? inArray(id, [...ids]) : undefined))
    .orderBy(asc(id));
}

/** Deletes up to `limit` events that started before the instant, with their outcomes; answers how many went. */
export async function prune(store: Store, before: Date, limit: number): Promise<number> {
  const { db, events, outcomes } = store;
  const bound = firstIdAt(before);
  const oldest = db.select({ id: events.id }).from(events).where(lte(events.id, bound)).orderBy(events.id).limit(limit);
  const [, gone] = await store.atomic((q) => [
    q.delete(outcomes).where(sql`${outcomes.eventId} in ${oldest}`),
    q.delete(events).where(sql`${events.id} in ${oldest}`).returning({ id: events.id }),
  ]);
  return gone.length;
}

function containing({ events, outcomes }: Store, text: string): SQL | undefined {
  const pattern = `%${text.replace(/[\\%_]/g, "\\$&")}%`;
  const holds = (column: typeof events.path | typeof outcomes.requestBody) =>
    sql`lower(${column}) like lower(${pattern}) escape '\\'`;
  return or(holds(events.path), holds(outcomes.requestBody), holds(outcomes.responseBody), holds(events.query));
}

const columns = ({ events: e, outcomes: o }: Store) => ({
  id: e.id,
  startedAt: e.startedAt,
  userId: e.userId,
  sessionId: e.sessionId,
  groupId: e.groupId,
  chatId: e.chatId,
  endpoint: e.endpoint,
  method: e.method,
  path: e.path,
  query: e.query,
  address: e.address,
  endedAt: o.endedAt,
  status: o.status,
  durationMs: o.durationMs,
  model: o.model,
  promptTokens: o.promptTokens,
  completionTokens: o.completionTokens,
  tokensEstimated: o.tokensEstimated,
  upstreamRequestId: o.upstreamRequestId,
  errorCode: o.errorCode,
  requestBody: o.requestBody,
  responseBody: o.responseBody,
});

/** The smallest UUIDv7 of an instant. */
function firstIdAt(at: Date): string {
  const hex = Math.max(0, at.getTime()).toString(16).padStart(12, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-7000-8000-000000000000`;
}
