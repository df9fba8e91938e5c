import { drizzle as overPostgres } from "drizzle-orm/pg-proxy";
import { drizzle as overSqlite } from "drizzle-orm/sqlite-proxy";
import Database from "libsql";
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
  const run = async (statements: readonly Statement[]) => {
    sent.push(...statements);
    return statements.map(() => []);
  };
  await work({ ...store, db, atomic: atomic as unknown as Store["atomic"], run });
  return sent;
}

/** What SQLite will do for a statement, a line for each step. Asked over a connection of its own, which it is done with then. */
export function sqlitePlan(path: string, { sql }: Statement): string[] {
  const database = new Database(path);
  try {
    return database
      .prepare(`explain query plan ${sql}`)
      .all()
      .map((row) => String((row as { detail: unknown }).detail));
  } finally {
    database.close();
  }
}

export type SqliteCounts = {
  statements: number;
  /** Rows passed in reading a table from end to end. */
  scanned: number;
  sorted: number;
  /** Rows put into an index that was made for the one statement. */
  indexed: number;
  /** Steps of SQLite's machine. */
  steps: number;
};

/** What SQLite did for a piece of work, as it counted itself for every statement that it prepared. */
export async function sqliteCounts(store: Store, work: (store: Store) => Promise<unknown>): Promise<SqliteCounts> {
  const count = async () => {
    const sql = "select sql, nscan, nsort, naidx, nstep, run from sqlite_stmt where sql not like '%sqlite_stmt%'";
    const [rows] = await store.run([{ sql, params: [] }]);
    return new Map((rows ?? []).map(([text, ...numbers]) => [String(text), numbers as number[]]));
  };
  const before = await count();
  await work(store);
  const counts = { statements: 0, scanned: 0, sorted: 0, indexed: 0, steps: 0 };
  for (const [text, after] of await count()) {
    const [scanned = 0, sorted = 0, indexed = 0, steps = 0, run = 0] = after.map(
      (value, i) => value - (before.get(text)?.[i] ?? 0),
    );
    counts.scanned += scanned;
    counts.sorted += sorted;
    counts.indexed += indexed;
    counts.steps += steps;
    if (run > 0) counts.statements++;
  }
  return counts;
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
