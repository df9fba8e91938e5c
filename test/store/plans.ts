import { drizzle as overPostgres } from "drizzle-orm/pg-proxy";
import { drizzle as overSqlite } from "drizzle-orm/sqlite-proxy";
import type pg from "pg";
import type { Db, Statement, Store } from "../../lib/store/store.ts";

export type Dialect = "sqlite" | "postgres";

/**
 * The statements that a piece of work sends, in their order. Nothing is sent and nothing is answered, so that they can be
 * looked at, or run, one by one.
 */
export async function statementsOf(
  store: Store,
  dialect: Dialect,
  work: (store: Store) => Promise<unknown>,
): Promise<Statement[]> {
  const sent: Statement[] = [];
  const record = async (sql: string, params: unknown[]) => {
    sent.push({ sql, params });
    return { rows: [] };
  };
  const db = (dialect === "postgres" ? overPostgres(record) : overSqlite(record)) as unknown as Db;
  const atomic = async (build: (q: Db) => readonly PromiseLike<unknown>[]) => {
    const results: unknown[] = [];
    for (const query of build(db)) results.push(await query);
    return results;
  };
  await work({ ...store, db, atomic: atomic as unknown as Store["atomic"] });
  return sent;
}

/** What SQLite will do for a statement, a line for each step. */
export async function sqlitePlan(store: Store, { sql, params }: Statement): Promise<string[]> {
  const [rows] = await store.run([{ sql: `explain query plan ${sql}`, params }]);
  return (rows ?? []).map(([, , , detail]) => String(detail));
}

export type PostgresPlan = {
  /** A line for each step, indented. */
  lines: string[];
  /** Tables that were read from end to end. */
  scanned: string[];
  indexes: string[];
  /** How many rows were read, those that were then left out as well. */
  rows: number;
  /** How many pages were looked at, those of foreign keys left aside. */
  pages: number;
};
type Node = Record<string, unknown> & { Plans?: Node[] };

/** What Postgres did for statements of one transaction, which is then undone. */
export async function postgresPlans(client: pg.Client, statements: readonly Statement[]): Promise<PostgresPlan[]> {
  const plans: PostgresPlan[] = [];
  await client.query("begin");
  try {
    for (const { sql, params } of statements) {
      const { rows } = await client.query(`explain (analyze, buffers, format json) ${sql}`, params as unknown[]);
      plans.push(planOf(rows[0]["QUERY PLAN"][0].Plan as Node));
    }
  } finally {
    await client.query("rollback");
  }
  return plans;
}

function planOf(root: Node): PostgresPlan {
  const plan: PostgresPlan = { lines: [], scanned: [], indexes: [], rows: 0, pages: 0 };
  const visit = (node: Node, depth: number) => {
    const loops = Number(node["Actual Loops"]);
    const kept = Number(node["Actual Rows"]) * loops;
    const removed = (Number(node["Rows Removed by Filter"] ?? 0) + Number(node["Rows Removed by Index Recheck"] ?? 0)) * loops;
    const index = node["Index Name"];
    const table = node["Relation Name"];
    if (typeof index === "string") plan.indexes.push(index);
    if (node["Node Type"] === "Seq Scan") plan.scanned.push(String(table));
    if (/Scan$/.test(String(node["Node Type"])) && (table || index)) plan.rows += kept + removed;
    const where = [table, index && `by ${index}`].filter(Boolean).join(" ");
    plan.lines.push(
      `${"  ".repeat(depth)}${node["Node Type"]} ${where} (${kept} rows${removed > 0 ? `, ${removed} left out` : ""})`,
    );
    for (const child of node.Plans ?? []) visit(child, depth + 1);
  };
  visit(root, 0);
  plan.pages = Number(root["Shared Hit Blocks"]) + Number(root["Shared Read Blocks"]);
  return plan;
}

/** How many messages a large chat has, and how many chats there are that are others'. */
export type Size = { messages: number; others: number };
export const LARGE: Size = { messages: 100_000, others: 100_000 };

/** The chats that are looked at. They are `user-1`'s, in a group of 50 people, `user-1` to `user-50`. */
export const CHATS = {
  /** Nothing was said in it. */
  empty: "chat-empty",
  /** 30 messages. */
  young: "chat-young",
  /** As many messages as there are. */
  large: "chat-large",
  /** 20 messages on the record, and after them as many as there are off the record. */
  quiet: "chat-quiet",
} as const;
export const OWNER = "user-1";
/** Somebody who sees these chats, and 200 others. */
export const MEMBER = "user-2";
/** One of the 50 people who own 1,000 chats each. */
export const BUSY = "user-51";
/** A chat's newest message, whose reply is being made. */
export const newestOf = (chat: string, { messages }: Size = LARGE): string =>
  `${chat}-${chat === CHATS.young ? 30 : chat === CHATS.quiet ? messages + 20 : messages}`;

/** The instant of the first message. Each is a second after the one before. */
export const START_MS = Date.UTC(2026, 0, 1);
/** How many rows one statement makes, so that none takes long. */
const ROWS_AT_ONCE = 20_000;
const PEOPLE = 10_000;
const GROUPS = 1_999;
const MEMBERSHIPS = 50_000;

/** Fills a new store with those chats, among many of other people. */
export async function fill(store: Store, dialect: Dialect, size: Size = LARGE): Promise<void> {
  const at = (seconds: string | number) =>
    dialect === "postgres" ? `to_timestamp(${START_MS / 1000} + ${seconds})` : `(${START_MS} + (${seconds}) * 1000)`;
  const insert = async (count: number, target: string, values: string) => {
    for (let from = 1; from <= count; from += ROWS_AT_ONCE) {
      const to = Math.min(count, from + ROWS_AT_ONCE - 1);
      const numbers = `with recursive n(i) as (select ${from} union all select i + 1 from n where i < ${to})`;
      await store.run([{ sql: `insert into ${target} ${numbers} select ${values} from n`, params: [] }]);
    }
  };
  const started = at(0);
  const no = dialect === "postgres" ? "false" : "0";
  const users = "users (id, username, password_hash, admin, created_at, updated_at)";
  await insert(PEOPLE, users, `'user-' || i, 'name-' || i, '', ${no}, ${started}, ${started}`);
  const groups = "groups (id, name, description, created_at, updated_at)";
  await insert(1 + GROUPS, groups, `'group-' || i, 'A group', '', ${started}, ${started}`);
  const members = "group_members (group_id, user_id, role, created_at)";
  await insert(50, members, `'group-1', 'user-' || i, case when i = 1 then 'owner' else 'member' end, ${started}`);
  await insert(MEMBERSHIPS, members, `'group-' || (2 + i % ${GROUPS}), 'user-' || (51 + i % 9949), 'member', ${started}`);

  const chats = "chats (id, owner_id, group_id, name, model, system_prompt, last_seq, created_at, updated_at)";
  const lengths = { empty: 0, young: 30, large: size.messages, quiet: size.messages + 20 };
  for (const [name, length] of Object.entries(lengths))
    await insert(1, chats, `'chat-${name}', '${OWNER}', 'group-1', 'A', 'gpt-4o', null, ${length}, ${started}, ${at(length)}`);
  const owner = "case when i % 2 = 0 then 'user-' || (51 + i / 2 % 50) else 'user-' || (101 + i % 9000) end";
  const group = `case when i % 4 = 1 then 'group-' || (2 + i % ${GROUPS}) end`;
  await insert(size.others, chats, `'other-' || i, ${owner}, ${group}, 'B', 'gpt-4o', null, 1, ${started}, ${at("i")}`);
  const chatUsers = "chat_users (chat_id, user_id, created_at)";
  await insert(size.others, chatUsers, `'other-' || i, 'user-' || (101 + i * 7 % 9899), ${started}`);
  await insert(200, chatUsers, `'other-' || i, '${MEMBER}', ${started}`);

  const messages = `messages (id, chat_id, seq, user_id, state, prompt, reply, model, request_id, fingerprint, context_tokens,
    created_at, updated_at)`;
  const said = `'What is ' || i || '?', 'It is a number, as are those before it and after it, and none of them ends.'`;
  const message = (chat: string, seq: string, last: number, tokens: string) => `
    ${chat} || '-' || ${seq}, ${chat}, ${seq}, 'user-' || (i % 50 + 1),
    case when ${seq} = ${last} then 'streaming' when ${tokens} is null then 'off_record' else 'done' end, ${said},
    'gpt-4o', 'request', 'print', case when ${seq} = ${last} then null else ${tokens} end, ${at("i")}, ${at("i")}`;
  await insert(lengths.young, messages, message(`'${CHATS.young}'`, "i", lengths.young, "30"));
  await insert(lengths.large, messages, message(`'${CHATS.large}'`, "i", lengths.large, "30"));
  await insert(lengths.quiet, messages, message(`'${CHATS.quiet}'`, "i", lengths.quiet, "case when i <= 20 then 30 end"));
  await insert(size.others, messages, message("'other-' || i", "1", 0, "30"));
}
