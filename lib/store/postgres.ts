import type { SQL } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { PgDialect } from "drizzle-orm/pg-core";
import pg from "pg";
import * as tables from "../../schema/postgres.ts";
import { migrate } from "./migrate.ts";
import { type Db, type Statement, type Store, StoreError } from "./store.ts";
import { temporalAsText } from "./types.ts";

const types = temporalAsText(pg.types);

/** Postgres over TCP. A transaction is sent whole, without waiting for the answer to each of its statements. */
export function openPostgres(url: string): Store {
  const pool = new pg.Pool({
    connectionString: url,
    max: 10,
    pipeline: true,
    connectionTimeoutMillis: 5_000,
    query_timeout: 30_000,
    keepAlive: true,
  } as pg.PoolConfig);
  // Without a listener an idle connection that the server ends would end this process; the pool replaces it by itself.
  pool.on("error", () => {});

  const names = new Map<string, string>();
  const named = (sql: string) => {
    const name = names.get(sql) ?? `p${names.size}`;
    names.set(sql, name);
    return name;
  };
  const transaction = async (statements: readonly Statement[], prepare: boolean): Promise<unknown[][][]> => {
    const client = await pool.connect().catch((error) => {
      throw new StoreError(error);
    });
    let broken = true;
    try {
      const query = ({ sql, params }: Statement) =>
        client.query({
          text: sql,
          values: params as unknown[],
          rowMode: "array",
          types,
          ...(prepare && { name: named(sql) }),
        });
      const settled = await Promise.allSettled(
        statements.length === 1
          ? statements.map(query)
          : [client.query("begin"), ...statements.map(query), client.query("commit")],
      );
      const failed = settled.find((result) => result.status === "rejected");
      if (failed?.status === "rejected") throw new StoreError(failed.reason);
      broken = false;
      const results = settled.map((result) => (result.status === "fulfilled" ? (result.value.rows as unknown[][]) : []));
      return statements.length === 1 ? results : results.slice(1, -1);
    } finally {
      // A failed transaction's connection is not given back: what state it is in is not worth a question.
      client.release(broken);
    }
  };
  const db = drizzle(pool);
  const dialect = new PgDialect();

  return {
    ...(tables as unknown as Store),
    db: db as unknown as Db,
    atomic: ((build: (q: Db) => PromiseLike<unknown>[]) =>
      db.transaction(async (tx) => Promise.all(build(tx as unknown as Db)))) as unknown as Store["atomic"],
    compile: (statement: SQL) => dialect.sqlToQuery(statement).sql,
    run: (statements) => transaction(statements, true),
    migrate: () =>
      migrate({
        folder: "postgres",
        parameter: "$1",
        transaction: async (list) => (await transaction(list, false)).at(-1) ?? [],
      }),
    ping: async () => void (await transaction([{ sql: "select 1", params: [] }], false)),
    close: () => pool.end(),
  };
}
