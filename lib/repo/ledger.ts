import { type SQL, sql } from "drizzle-orm";
import type { Statement, Store } from "../store/store.ts";

/** What is known of a request before it is served. */
export type Opening = {
  id: string;
  startedAt: Date;
  function: string;
  endpoint: string;
  method: string;
  path: string;
  query: string;
  address: string;
};
/** Who a token belongs to, as the store had it when the request's event was opened. */
export type Caller = {
  userId: string;
  username: string;
  admin: boolean;
  sessionId: string;
  kind: "session" | "key";
  lastUsedAt: Date;
};
export type Usage = { promptTokens: number; completionTokens: number; estimated: boolean };
/** How a request ended. */
export type Outcome = {
  endedAt: Date;
  status: number;
  durationMs: number;
  userId: string | null;
  model: string | null;
  usage: Usage | null;
  upstreamRequestId: string | null;
  errorCode: string | null;
  requestBody: string | null;
  responseBody: string | null;
  groupId: string | null;
  chatId: string | null;
};

type Keyed = { opening: Opening; hash: string };
type Closing = { id: string; outcome: Outcome };
/** The compiled texts of a store's statements, by name and number of rows. */
const texts = new WeakMap<Store, Map<string, string>>();

/**
 * Opens an event for each request whose token is valid, counts it in `usage`, and answers whose token it is, in one
 * transaction. A token that is unknown, expired or of a disabled user has no event and answers null. Safe to repeat.
 */
export async function openAll(store: Store, requests: readonly Keyed[]): Promise<(Caller | null)[]> {
  const { events, sessions, users } = store;
  const startedAt = (at: Date) => events.startedAt.mapToDriverValue(at);
  const [, rows = []] = await store.run([
    statement(
      store,
      "count",
      requests.map(({ opening: o, hash }) => [o.id, hash, startedAt(o.startedAt), o.startedAt.toISOString().slice(0, 10)]),
      countText,
    ),
    statement(
      store,
      "open",
      requests.map(({ opening: o, hash }) => {
        return [o.id, hash, startedAt(o.startedAt), o.function, o.endpoint, o.method, o.path, o.query, o.address];
      }),
      openText,
    ),
  ]);
  const callers = new Map<string, Caller>();
  for (const [id, userId, sessionId, username, admin, kind, lastUsedAt] of rows) {
    callers.set(String(id), {
      userId: String(userId),
      sessionId: String(sessionId),
      username: String(username),
      admin: users.admin.mapFromDriverValue(admin as never) as boolean,
      kind: kind as Caller["kind"],
      lastUsedAt: sessions.lastUsedAt.mapFromDriverValue(lastUsedAt as never) as Date,
    });
  }
  return requests.map(({ opening }) => callers.get(opening.id) ?? null);
}

/** Opens an event for a request that nobody signed: a sign-in, or one that is about to be refused. */
export async function openAnonymous({ db, events }: Store, opening: Opening): Promise<void> {
  await db.insert(events).values(opening).onConflictDoNothing();
}

/** Completes events and adds their tokens to `usage`, in one transaction. Safe to repeat. */
export async function closeAll(store: Store, closings: readonly Closing[]): Promise<void> {
  const endedAt = (at: Date) => store.events.endedAt.mapToDriverValue(at);
  const estimated = (flag: boolean | null) => (flag === null ? null : store.events.tokensEstimated.mapToDriverValue(flag));
  const counted = closings.filter(({ outcome }) => outcome.usage && outcome.userId);
  const complete = statement(
    store,
    "close",
    closings.map(({ id, outcome: o }) => [
      id,
      endedAt(o.endedAt),
      o.status,
      o.durationMs,
      o.userId,
      o.model,
      o.usage?.promptTokens ?? null,
      o.usage?.completionTokens ?? null,
      estimated(o.usage?.estimated ?? null),
      o.upstreamRequestId,
      o.errorCode,
      o.requestBody,
      o.responseBody,
      o.groupId,
      o.chatId,
    ]),
    closeText,
  );
  if (counted.length === 0) {
    await store.run([complete]);
    return;
  }
  const tokens = counted.map(({ id, outcome: o }) => [
    id,
    o.userId,
    o.endedAt.toISOString().slice(0, 10),
    o.usage?.promptTokens ?? 0,
    o.usage?.completionTokens ?? 0,
  ]);
  await store.run([statement(store, "tokens", tokens, tokensText), complete]);
}

// Only a row that is new counts, and in the order of its key: two groups that lock the same users never wait for each other.
function countText({ usage, sessions, users, events }: Store, rows: number): SQL {
  const given = values("v", rows, { id: events.id, hash: sessions.hash, now: events.startedAt, day: usage.day });
  return sql`with ${given} insert into ${usage} (user_id, day, requests, prompt_tokens, completion_tokens)
    select s.user_id, v.day, count(*), 0, 0 from v ${validSession(sessions, users)}
    where not exists (select 1 from ${events} e where e.id = v.id) group by s.user_id, v.day order by s.user_id
    on conflict (user_id, day) do update set requests = ${usage}.requests + excluded.requests`;
}

function openText({ events, sessions, users }: Store, rows: number): SQL {
  const given = values("v", rows, {
    id: events.id,
    hash: sessions.hash,
    now: events.startedAt,
    function: events.function,
    endpoint: events.endpoint,
    method: events.method,
    path: events.path,
    query: events.query,
    address: events.address,
  });
  const session = (column: string) => sql`(select s.${sql.raw(column)} from ${sessions} s where s.id = ${events}.session_id)`;
  const user = (column: string) => sql`(select u.${sql.raw(column)} from ${users} u where u.id = ${events}.user_id)`;
  return sql`with ${given} insert into ${events}
    (id, started_at, user_id, session_id, function, endpoint, method, path, query, address)
    select v.id, v.now, s.user_id, s.id, v.function, v.endpoint, v.method, v.path, v.query, v.address
    from v ${validSession(sessions, users)} where true
    on conflict (id) do update set id = excluded.id
    returning id, user_id, session_id, ${user("username")}, ${user("admin")}, ${session("kind")}, ${session("last_used_at")}`;
}

function closeText({ events }: Store, rows: number): SQL {
  const given = values("v", rows, {
    id: events.id,
    ended_at: events.endedAt,
    status: events.status,
    duration_ms: events.durationMs,
    user_id: events.userId,
    model: events.model,
    prompt_tokens: events.promptTokens,
    completion_tokens: events.completionTokens,
    tokens_estimated: events.tokensEstimated,
    upstream_request_id: events.upstreamRequestId,
    error_code: events.errorCode,
    request_body: events.requestBody,
    response_body: events.responseBody,
    group_id: events.groupId,
    chat_id: events.chatId,
  });
  return sql`with ${given} update ${events} set ended_at = v.ended_at, status = v.status, duration_ms = v.duration_ms,
    user_id = coalesce(${events}.user_id, v.user_id), model = v.model, prompt_tokens = v.prompt_tokens,
    completion_tokens = v.completion_tokens, tokens_estimated = v.tokens_estimated,
    upstream_request_id = v.upstream_request_id, error_code = v.error_code, request_body = v.request_body,
    response_body = v.response_body, group_id = v.group_id, chat_id = v.chat_id
    from v where ${events}.id = v.id and ${events}.ended_at is null`;
}

function tokensText({ usage, events }: Store, rows: number): SQL {
  const given = values("v", rows, {
    id: events.id,
    user_id: usage.userId,
    day: usage.day,
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
  });
  return sql`with ${given} insert into ${usage} (user_id, day, requests, prompt_tokens, completion_tokens)
    select v.user_id, v.day, 0, sum(v.prompt_tokens), sum(v.completion_tokens) from v
    join ${events} e on e.id = v.id and e.ended_at is null where true group by v.user_id, v.day order by v.user_id
    on conflict (user_id, day) do update set
    prompt_tokens = ${usage}.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = ${usage}.completion_tokens + excluded.completion_tokens`;
}

const validSession = (sessions: Store["sessions"], users: Store["users"]) =>
  sql`join ${sessions} s on s.hash = v.hash and s.expires_at > v.now
    join ${users} u on u.id = s.user_id and u.disabled_at is null`;

/** `name (columns) as (values …)`. The first row's casts give Postgres the types; the columns' own types are used. */
function values(name: string, rows: number, columns: Record<string, { getSQLType(): string }>): SQL {
  const types = Object.values(columns);
  const slot = sql.placeholder("value");
  const first = sql.join(
    types.map((column) => sql`cast(${slot} as ${sql.raw(column.getSQLType())})`),
    sql`, `,
  );
  const other = sql`(${sql.join(
    types.map(() => sql`${slot}`),
    sql`, `,
  )})`;
  const list = sql.join([sql`(${first})`, ...Array.from({ length: rows - 1 }, () => other)], sql`, `);
  return sql`${sql.raw(name)} (${sql.raw(Object.keys(columns).join(", "))}) as (values ${list})`;
}

function statement(
  store: Store,
  name: string,
  rows: readonly (readonly unknown[])[],
  build: (store: Store, rows: number) => SQL,
): Statement {
  const known = texts.get(store) ?? new Map<string, string>();
  texts.set(store, known);
  const key = `${name}${rows.length}`;
  const text = known.get(key) ?? store.compile(build(store, rows.length));
  known.set(key, text);
  return { sql: text, params: rows.flat() };
}
