import { sql as fragment, type SQL } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { PgDialect } from "drizzle-orm/pg-core";
import pg from "pg";
import * as tables from "../../schema/postgres.ts";
import { migrate } from "./migrate.ts";
import { type Db, orStoreError, type Statement, type Store } from "./store.ts";
import { temporalAsText } from "./types.ts";

const types = temporalAsText(pg.types);
/** Longer than any statement of the hot path takes; a server that is silent for so long is as good as gone. */
const HOT_TIMEOUT_MS = 5_000;

/** Postgres over TCP. A transaction is sent whole, without waiting for the answer to each of its statements. */
export function openPostgres(url: string): Store {
  const pool = new pg.Pool({
    connectionString: url,
    max: 10,
    pipeline: true,
    connectionTimeoutMillis: 5_000,
    query_timeout: 30_000,
    keepAlive: true,
    // A start that fails for another reason does not wait for connections that do nothing.
    allowExitOnIdle: true,
  } as pg.PoolConfig);
  // Without listeners a connection that breaks, idle or at work, would end this process. Its queries fail, and the pool replaces it.
  pool.on("error", () => {});
  pool.on("connect", (client) => client.on("error", () => {}));

  const names = new Map<string, string>();
  const named = (sql: string) => {
    const name = names.get(sql) ?? `p${names.size}`;
    names.set(sql, name);
    return name;
  };
  /** Lends a connection. One on which anything failed is not given back: what state it is in is not worth a question. */
  const onConnection = async <T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> => {
    const client = await orStoreError(pool.connect());
    let broken = true;
    try {
      const result = await orStoreError(work(client));
      broken = false;
      return result;
    } finally {
      client.release(broken);
    }
  };
  const transaction = (statements: readonly Statement[], prepare: boolean): Promise<unknown[][][]> =>
    onConnection(async (client) => {
      const query = ({ sql, params }: Statement) =>
        client.query<unknown[]>({
          text: sql,
          values: params as unknown[],
          rowMode: "array",
          types,
          ...(prepare && { name: named(sql), query_timeout: HOT_TIMEOUT_MS }),
        });
      if (statements.length === 1) return (await allOf(statements.map(query))).map(({ rows }) => rows);
      const results = await allOf([client.query("begin"), ...statements.map(query), client.query("commit")]);
      return results.slice(1, -1).map(({ rows }) => rows);
    });
  const atomic = (build: (q: Db) => PromiseLike<unknown>[]) =>
    onConnection(async (client) => {
      const begun = client.query("begin");
      const [, ...results] = await allOf([begun, ...build(drizzle(client) as unknown as Db)]);
      await client.query("commit");
      return results;
    });
  const db = drizzle(pool);
  const dialect = new PgDialect();

  return {
    ...(tables as unknown as Store),
    db: db as unknown as Db,
    atomic: atomic as unknown as Store["atomic"],
    compile: (statement: SQL) => dialect.sqlToQuery(statement).sql,
    run: (statements) => transaction(statements, true),
    snapshot: async () => {
      const client = await orStoreError(pool.connect());
      const end = async () => client.release(true);
      const begun = client.query("begin isolation level repeatable read read only");
      await orStoreError(begun).catch((error) => end().then(() => Promise.reject(error)));
      return { db: drizzle(client) as unknown as Db, end };
    },
    migrate: () =>
      migrate({
        folder: "postgres",
        parameter: "$1",
        transaction: async (list) => (await transaction(list, false)).at(-1) ?? [],
      }),
    expiredAt: () => null,
    leavingTaken: fragment`for update skip locked`,
    ping: async () => void (await transaction([{ sql: "select 1", params: [] }], true)),
    close: () => pool.end(),
  };
}

/** Every result once all have come, so that none is still under way when the first failure is told. */
async function allOf<const T extends readonly PromiseLike<unknown>[]>(work: T) {
  const settled = await Promise.allSettled(work);
  const failed = settled.find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
  return settled.map((result) => (result as PromiseFulfilledResult<Awaited<T[number]>>).value);
}
