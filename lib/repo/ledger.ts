import { type SQL, sql } from "drizzle-orm";
import type { Statement, Store } from "../store/store.ts";

/** What is known of a request before it is served. */
export type Opening = {
  id: string;
  startedAt: Date;
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
/** What an event turns out to be about, where that is not what it was opened with. */
export type Subject = { userId?: string; groupId?: string; chatId?: string };
/** How a request ended. */
export type Outcome = {
  endedAt: Date;
  status: number;
  durationMs: number;
  /** Whose tokens were used. */
  userId: string | null;
  model: string | null;
  usage: Usage | null;
  upstreamRequestId: string | null;
  errorCode: string | null;
  requestBody: string | null;
  responseBody: string | null;
  subject: Subject | null;
};

/** A request to open an event for, and the SHA-256 of its token. */
export type Keyed = { opening: Opening; hash: string };
export type Closing = { id: string; outcome: Outcome };
/** A column whose type a list of values takes. */
type Typed = { getSQLType(): string };
type Build = (store: Store, rows: number) => SQL;

/** Groups are filled up with rows of nulls, which match nothing, to one of these sizes, so that few texts are ever compiled. */
const SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/** The compiled texts of a store's statements, by what builds them and their number of rows. */
const texts = new WeakMap<Store, Map<Build, string[]>>();

/**
 * Opens events and completes others, in one transaction, and answers whose token each opening's is.
 *
 * An event is opened where the token is valid; one that is unknown, expired or of a disabled user writes nothing and answers
 * null. Openings and tokens used are counted in `usage`. Safe to repeat: the transaction is all or nothing, so one event
 * stands for all that were counted with it.
 */
export async function write(
  store: Store,
  openings: readonly Keyed[],
  closings: readonly Closing[],
): Promise<(Caller | null)[]> {
  const opening = openings.length > 0 ? openingStatements(store, openings) : [];
  const results = await store.run([...opening, ...closingStatements(store, closings)]);
  const callers = new Map((results[opening.length - 1] ?? []).map((row) => [String(row[0]), callerOf(store, row)]));
  return openings.map(({ hash }) => callers.get(hash) ?? null);
}

/** Opens an event for a request that nobody signed: a sign-in, or one that is about to be refused. */
export async function openAnonymous({ db, events }: Store, opening: Opening): Promise<void> {
  await db.insert(events).values(opening).onConflictDoNothing();
}

/** The last of them answers the callers. */
function openingStatements(store: Store, openings: readonly Keyed[]): Statement[] {
  const { events, sessions } = store;
  const tokens = new Map<string, { count: number; id: string; day: string }>();
  const rows: unknown[] = [];
  let latest = new Date(0);
  for (const { opening: o, hash } of openings) {
    if (o.startedAt > latest) latest = o.startedAt;
    const token = tokens.get(hash);
    if (token) token.count++;
    else tokens.set(hash, { count: 1, id: o.id, day: dayOf(o.startedAt) });
    rows.push(o.id, hash, events.startedAt.mapToDriverValue(o.startedAt), o.endpoint, o.method, o.path, o.query, o.address);
  }
  const now = sessions.expiresAt.mapToDriverValue(latest);
  const counted = [...tokens].flatMap(([hash, { count, id, day }]) => [hash, id, day, count]);
  return [
    statement(store, countText, tokens.size, counted, now),
    statement(store, openText, openings.length, rows, now),
    statement(store, callersText, tokens.size, [...tokens.keys()], now),
  ];
}

function closingStatements(store: Store, closings: readonly Closing[]): Statement[] {
  if (closings.length === 0) return [];
  const { outcomes } = store;
  const used = new Map<string, { userId: string; day: string; prompt: number; completion: number; id: string }>();
  const subjects: unknown[] = [];
  const rows: unknown[] = [];
  for (const { id, outcome: o } of closings) {
    const { usage, userId, subject } = o;
    if (usage && userId) {
      const day = dayOf(o.endedAt);
      const sum = used.get(userId + day) ?? { userId, day, prompt: 0, completion: 0, id };
      sum.prompt += usage.promptTokens;
      sum.completion += usage.completionTokens;
      used.set(userId + day, sum);
    }
    if (subject) subjects.push(id, subject.userId ?? null, subject.groupId ?? null, subject.chatId ?? null);
    rows.push(
      id,
      outcomes.endedAt.mapToDriverValue(o.endedAt),
      o.status,
      o.durationMs,
      o.model,
      usage ? usage.promptTokens : null,
      usage ? usage.completionTokens : null,
      usage ? outcomes.tokensEstimated.mapToDriverValue(usage.estimated) : null,
      o.upstreamRequestId,
      o.errorCode,
      o.requestBody,
      o.responseBody,
    );
  }
  // Keys in order: two groups that lock the same users never wait for each other.
  const sums = [...used.values()].sort((a, b) => (a.userId < b.userId ? -1 : 1));
  const usage = sums.flatMap(({ id, userId, day, prompt, completion }) => [id, userId, day, prompt, completion]);
  return [
    ...(sums.length > 0 ? [statement(store, usageText, sums.length, usage)] : []),
    ...(subjects.length > 0 ? [statement(store, subjectText, subjects.length / 4, subjects)] : []),
    statement(store, closeText, closings.length, rows),
  ];
}

function callerOf({ users, sessions }: Store, row: unknown[]): Caller {
  const [, sessionId, userId, kind, lastUsedAt, username, admin] = row;
  return {
    sessionId: String(sessionId),
    userId: String(userId),
    kind: kind as Caller["kind"],
    lastUsedAt: sessions.lastUsedAt.mapFromDriverValue(lastUsedAt as never) as Date,
    username: String(username),
    admin: users.admin.mapFromDriverValue(admin as never) as boolean,
  };
}

let today = { number: Number.NaN, text: "" };
/** The UTC day of an instant, `2026-11-21`. */
function dayOf(at: Date): string {
  const number = Math.floor(at.getTime() / 86_400_000);
  if (number !== today.number) today = { number, text: at.toISOString().slice(0, 10) };
  return today.text;
}

const value = sql.placeholder("value");

/** The valid session of a token `v.hash`, and its user. The instant is the statement's last parameter. */
const validSession = ({ sessions, users }: Store) =>
  sql`join ${sessions} s on s.hash = v.hash and s.expires_at > ${value} join ${users} u on u.id = s.user_id and u.disabled_at is null`;

function countText(store: Store, rows: number): SQL {
  const { usage, events, sessions } = store;
  const v = values(rows, { hash: sessions.hash, id: events.id, day: usage.day, requests: usage.requests });
  return sql`with ${v} insert into ${usage} (user_id, day, requests, prompt_tokens, completion_tokens)
    select s.user_id, v.day, sum(v.requests), 0, 0 from v ${validSession(store)}
    where not exists (select 1 from ${events} e where e.id = v.id) group by s.user_id, v.day order by s.user_id
    on conflict (user_id, day) do update set requests = ${usage}.requests + excluded.requests`;
}

function openText(store: Store, rows: number): SQL {
  const { events: e, sessions } = store;
  const { id, startedAt, endpoint, method, path, query, address } = e;
  const v = values(rows, { id, hash: sessions.hash, started_at: startedAt, endpoint, method, path, query, address });
  return sql`with ${v} insert into ${e} (id, started_at, user_id, session_id, endpoint, method, path, query, address)
    select v.id, v.started_at, s.user_id, s.id, v.endpoint, v.method, v.path, v.query, v.address
    from v ${validSession(store)} where true on conflict (id) do nothing`;
}

function callersText(store: Store, rows: number): SQL {
  return sql`with ${values(rows, { hash: store.sessions.hash })}
    select v.hash, s.id, s.user_id, s.kind, s.last_used_at, u.username, u.admin from v ${validSession(store)}`;
}

function closeText(store: Store, rows: number): SQL {
  const { outcomes: o } = store;
  const v = values(rows, {
    event_id: o.eventId,
    ended_at: o.endedAt,
    status: o.status,
    duration_ms: o.durationMs,
    model: o.model,
    prompt_tokens: o.promptTokens,
    completion_tokens: o.completionTokens,
    tokens_estimated: o.tokensEstimated,
    upstream_request_id: o.upstreamRequestId,
    error_code: o.errorCode,
    request_body: o.requestBody,
    response_body: o.responseBody,
  });
  return sql`with ${v} insert into ${o} (event_id, ended_at, status, duration_ms, model, prompt_tokens, completion_tokens,
    tokens_estimated, upstream_request_id, error_code, request_body, response_body)
    select * from v where v.event_id is not null on conflict (event_id) do nothing`;
}

function subjectText({ events: e }: Store, rows: number): SQL {
  const v = values(rows, { id: e.id, user_id: e.userId, group_id: e.groupId, chat_id: e.chatId });
  return sql`with ${v} update ${e} set user_id = coalesce(v.user_id, ${e}.user_id), group_id = v.group_id, chat_id = v.chat_id
    from v where ${e}.id = v.id`;
}

function usageText({ usage, outcomes }: Store, rows: number): SQL {
  const { userId, day, promptTokens, completionTokens } = usage;
  const columns = { user_id: userId, day, prompt_tokens: promptTokens, completion_tokens: completionTokens };
  const v = values(rows, { event_id: outcomes.eventId, ...columns });
  return sql`with ${v} insert into ${usage} (user_id, day, requests, prompt_tokens, completion_tokens)
    select v.user_id, v.day, 0, v.prompt_tokens, v.completion_tokens from v
    where v.event_id is not null and not exists (select 1 from ${outcomes} o where o.event_id = v.event_id) order by v.user_id
    on conflict (user_id, day) do update set
    prompt_tokens = ${usage}.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = ${usage}.completion_tokens + excluded.completion_tokens`;
}

/** `v (columns) as (values …)`. The first row's casts give Postgres the types of the columns named. */
function values(rows: number, columns: Record<string, Typed>): SQL {
  const types = Object.values(columns);
  const first = sql.join(
    types.map((column) => sql`cast(${value} as ${sql.raw(column.getSQLType())})`),
    sql`, `,
  );
  const other = sql`(${sql.join(
    types.map(() => sql`${value}`),
    sql`, `,
  )})`;
  const list = sql.join([sql`(${first})`, ...Array.from({ length: rows - 1 }, () => other)], sql`, `);
  return sql`v (${sql.raw(Object.keys(columns).join(", "))}) as (values ${list})`;
}

/** A statement over `count` rows, given as one flat list, and one value behind them where the text asks for it. */
function statement(store: Store, build: Build, count: number, rows: unknown[], ...behind: unknown[]): Statement {
  const size = SIZES.find((it) => it >= count) ?? count;
  const missing = (rows.length / count) * (size - count);
  for (let i = 0; i < missing; i++) rows.push(null);
  rows.push(...behind);

  const known = texts.get(store) ?? new Map<Build, string[]>();
  texts.set(store, known);
  const bySize = known.get(build) ?? [];
  known.set(build, bySize);
  bySize[size] ??= store.compile(build(store, size));
  return { sql: bySize[size], params: rows };
}
