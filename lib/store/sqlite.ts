import { sql as fragment, type SQL } from "drizzle-orm";
import { SQLiteAsyncDialect } from "drizzle-orm/sqlite-core";
import { drizzle } from "drizzle-orm/sqlite-proxy";
import Database from "libsql";
import * as tables from "../../schema/sqlite.ts";
import { migrate } from "./migrate.ts";
import { type Db, type Statement, type Store, StoreError } from "./store.ts";

/** The ledger has some sixty statements, queries as many again. */
const MOST_PREPARED = 500;

/** How long another process that has the file is waited for, and how long between two tries where SQLite itself does not wait. */
const BUSY_MS = 5_000;
const AGAIN_MS = 10;

type Method = "run" | "all" | "values" | "get";
type Prepared = (params: readonly unknown[]) => unknown[][];

/**
 * SQLite in a file, through libSQL. `synchronous=FULL` makes an acknowledged write survive a power cut; WAL and the busy
 * timeout let a second process (the admin command) open the same file. Statements are prepared once and kept.
 */
export function openSqlite(path: string): Store {
  const database = connect(path);
  const prepared = new Map<string, Prepared>();

  const execute = (sql: string, params: readonly unknown[]): unknown[][] => {
    let statement = prepared.get(sql);
    if (!statement) {
      statement = prepare(database, sql);
      if (prepared.size >= MOST_PREPARED) prepared.delete(prepared.keys().next().value as string);
      prepared.set(sql, statement);
    }
    return statement(params);
  };
  const one = (sql: string, params: readonly unknown[]) => {
    try {
      return execute(sql, params);
    } catch (error) {
      throw new StoreError(error);
    }
  };
  const transaction = (statements: readonly Statement[]): unknown[][][] => {
    if (statements.length === 1) return statements.map(({ sql, params }) => one(sql, params));
    one("begin immediate", []);
    try {
      const results = statements.map(({ sql, params }) => execute(sql, params));
      execute("commit", []);
      return results;
    } catch (error) {
      if (database.inTransaction) execute("rollback", []);
      throw new StoreError(error);
    }
  };

  const shape = (rows: unknown[][], method: Method) => ({ rows: method === "get" ? (rows[0] as unknown[]) : rows });
  const db = drizzle(
    async (sql, params, method) => shape(one(sql, params), method),
    async (queries) => {
      const results = transaction(queries);
      return queries.map(({ method }, i) => shape(results[i] ?? [], method as Method));
    },
  );
  const dialect = new SQLiteAsyncDialect();

  return {
    ...(tables as unknown as Store),
    db: db as unknown as Db,
    atomic: ((build: (q: Db) => never) => db.batch(build(db as unknown as Db))) as unknown as Store["atomic"],
    compile: (statement: SQL) => dialect.sqlToQuery(statement).sql,
    run: async (statements) => transaction(statements),
    // On a connection of its own, so that nothing else becomes a part of its transaction.
    snapshot: async () => {
      const { db, run, close } = openSqlite(path);
      await run([{ sql: "begin", params: [] }]);
      return { db, end: () => run([{ sql: "rollback", params: [] }]).then(close) };
    },
    migrate: () => migrate({ folder: "sqlite", parameter: "?", transaction: async (list) => transaction(list).at(-1) ?? [] }),
    expiredAt: () => null,
    leavingTaken: fragment``,
    ping: async () => void one("select 1", []),
    close: async () => {
      prepared.clear();
      database.close();
    },
  };
}

/** A statement that answers rows as arrays; one that only writes answers none. */
function prepare(database: Database.Database, sql: string): Prepared {
  const statement = database.prepare(sql);
  if (statement.reader) {
    const reader = statement.raw(true);
    return (params) => reader.all(params) as unknown[][];
  }
  return (params) => {
    statement.run(params);
    return [];
  };
}

function connect(path: string) {
  try {
    const database = new Database(path);
    database.exec(`pragma busy_timeout = ${BUSY_MS}`);
    useWal(database);
    database.exec("pragma synchronous = full; pragma foreign_keys = on");
    return database;
  } catch (error) {
    throw new StoreError(error);
  }
}

/** The file's first change to WAL does not heed the busy timeout, so that of two that make a file at once one would be refused. */
function useWal(database: Database.Database): void {
  const deadlineMs = performance.now() + BUSY_MS;
  for (;;) {
    try {
      database.exec("pragma journal_mode = wal");
      return;
    } catch (error) {
      if (new StoreError(error).code !== "SQLITE_BUSY" || performance.now() > deadlineMs) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, AGAIN_MS);
    }
  }
}
