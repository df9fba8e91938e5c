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
const SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];
/** The compiled texts of a store's statements, by what builds them and their number of rows. */
const texts = new WeakMap<Store, Map<Build, string[]>>();

/**
 * Opens events and completes others, in one transaction, and answers whose token each opening's is.
 *
 * An event is opened where the token is valid; one that is unknown, expired or of a disabled user writes nothing and answers
 * null. Openings and tokens used are counted in `usage`. Never done twice: an event or outcome that is there already, or is
 * being written, fails the whole as a duplicate, and nothing is counted again.
 */
export async function write(store: Store, openings: readonly Keyed[], closings: readonly Closing[]): Promise<(Caller | null)[]> {
  const used = new Map<string, Used>();
  const opening = openings.length > 0 ? openingStatements(store, openings, used) : [];
  const closing = closings.length > 0 ? closingStatements(store, closings, used) : [];
  const results = await store.run([...opening, ...closing, ...usageStatement(store, used)]);
  return callersIn(store, openings, results[opening.length - 1]);
}

/** Whose token each opening's is, of events that are there already. */
export async function callersOf(store: Store, openings: readonly Keyed[]): Promise<(Caller | null)[]> {
  const [rows] = await store.run(openingStatements(store, openings, new Map()).slice(-1));
  return callersIn(store, openings, rows);
}

/** Opens an event for a request that nobody signed: a sign-in, or one that is about to be refused. */
export async function openAnonymous({ db, events }: Store, opening: Opening): Promise<void> {
  await db.insert(events).values(opening).onConflictDoNothing();
}

/** What is counted together: openings by token, tokens by user. */
type Used = { eventId: string | null; userId: string | null; day: string; requests: number; prompt: number; completion: number };

/** The last of them answers the callers. */
function openingStatements(store: Store, openings: readonly Keyed[], used: Map<string, Used>): Statement[] {
  const { events, sessions } = store;
  const hashes = new Set<string>();
  const rows: unknown[] = [];
  let latest = new Date(0);
  for (const { opening: o, hash } of openings) {
    if (o.startedAt > latest) latest = o.startedAt;
    const day = dayOf(o.startedAt);
    const known = used.get(hash + day);
    if (known) known.requests++;
    else used.set(hash + day, { eventId: o.id, userId: null, day, requests: 1, prompt: 0, completion: 0 });
    hashes.add(hash);
    rows.push(o.id, hash, events.startedAt.mapToDriverValue(o.startedAt), o.endpoint, o.method, o.path, o.query, o.address);
  }
  const now = sessions.expiresAt.mapToDriverValue(latest);
  return [statement(store, openText, openings.length, rows, now), statement(store, callersText, hashes.size, [...hashes], now)];
}

function closingStatements(store: Store, closings: readonly Closing[], used: Map<string, Used>): Statement[] {
  const { outcomes } = store;
  const subjects: unknown[] = [];
  const rows: unknown[] = [];
  for (const { id, outcome: o } of closings) {
    const { usage, userId, subject } = o;
    if (usage && userId) {
      const day = dayOf(o.endedAt);
      const sum = used.get(userId + day) ?? { eventId: null, userId, day, requests: 0, prompt: 0, completion: 0 };
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
  const close = statement(store, closeText, closings.length, rows);
  return subjects.length > 0 ? [close, statement(store, subjectText, subjects.length / 4, subjects)] : [close];
}

function usageStatement(store: Store, used: Map<string, Used>): Statement[] {
  if (used.size === 0) return [];
  const rows = [...used.values()].flatMap((it) => [it.eventId, it.userId, it.day, it.requests, it.prompt, it.completion]);
  return [statement(store, usageText, used.size, rows)];
}

function callersIn(store: Store, openings: readonly Keyed[], rows: unknown[][] = []): (Caller | null)[] {
  const callers = new Map(rows.map((row) => [String(row[0]), callerOf(store, row)]));
  return openings.map(({ hash }) => callers.get(hash) ?? null);
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

function openText(store: Store, rows: number): SQL {
  const { events: e, sessions } = store;
  const { id, startedAt, endpoint, method, path, query, address } = e;
  const v = values(rows, { id, hash: sessions.hash, started_at: startedAt, endpoint, method, path, query, address });
  return sql`with ${v} insert into ${e} (id, started_at, user_id, session_id, endpoint, method, path, query, address)
    select v.id, v.started_at, s.user_id, s.id, v.endpoint, v.method, v.path, v.query, v.address
    from v ${validSession(store)}`;
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
    select * from v where v.event_id is not null`;
}

function subjectText({ events: e }: Store, rows: number): SQL {
  const v = values(rows, { id: e.id, user_id: e.userId, group_id: e.groupId, chat_id: e.chatId });
  return sql`with ${v} update ${e} set user_id = coalesce(v.user_id, ${e}.user_id), group_id = v.group_id, chat_id = v.chat_id
    from v where ${e}.id = v.id`;
}

// In the order of its keys, so that two groups of the same users never wait for each other; and last, so that none waits long.
function usageText({ usage, events }: Store, rows: number): SQL {
  const { userId, day, requests, promptTokens, completionTokens } = usage;
  const columns = { user_id: userId, day, requests, prompt_tokens: promptTokens, completion_tokens: completionTokens };
  const v = values(rows, { event_id: events.id, ...columns });
  return sql`with ${v} insert into ${usage} (user_id, day, requests, prompt_tokens, completion_tokens)
    select coalesce(v.user_id, e.user_id), v.day, sum(v.requests), sum(v.prompt_tokens), sum(v.completion_tokens)
    from v left join ${events} e on e.id = v.event_id where v.user_id is not null or e.user_id is not null
    group by 1, 2 order by 1, 2 on conflict (user_id, day) do update set
    requests = ${usage}.requests + excluded.requests, prompt_tokens = ${usage}.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = ${usage}.completion_tokens + excluded.completion_tokens`;
}

/** `v (columns) as (values …)`. The first row's casts give Postgres the types of the columns named. */
function values(rows: number, columns: Record<string, Typed>): SQL {
  const row = (slot: (column: Typed) => SQL) => sql`(${sql.join(Object.values(columns).map(slot), sql`, `)})`;
  const first = row((column) => sql`cast(${value} as ${sql.raw(column.getSQLType())})`);
  const other = row(() => sql`${value}`);
  const list = sql.join([first, ...Array.from({ length: rows - 1 }, () => other)], sql`, `);
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
