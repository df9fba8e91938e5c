import { PGlite, types } from "@electric-sql/pglite";
import { sql as fragment, type SQL } from "drizzle-orm";
import { PgDialect } from "drizzle-orm/pg-core";
import { drizzle } from "drizzle-orm/pglite";
import { migrate } from "../../lib/store/migrate.ts";
import { type Db, orStoreError, type Statement, type Store } from "../../lib/store/store.ts";
import * as tables from "../../schema/postgres.ts";

const asText = (text: string) => text;
const parsers = Object.fromEntries([types.TIMESTAMPTZ, types.TIMESTAMP, types.DATE].map((type) => [type, asText]));

/** Postgres in this process, in memory, for machines without a server: the dialect's proof, one connection at a time. */
export async function openPglite(): Promise<Store> {
  const client = await PGlite.create();
  const db = drizzle(client);
  const dialect = new PgDialect();
  const transaction = (statements: readonly Statement[]): Promise<unknown[][][]> =>
    orStoreError(
      client.transaction(async (tx) => {
        const results: unknown[][][] = [];
        for (const { sql, params } of statements) {
          results.push((await tx.query<unknown[]>(sql, [...params], { rowMode: "array", parsers })).rows);
        }
        return results;
      }),
    );
  return {
    ...(tables as unknown as Store),
    db: db as unknown as Db,
    atomic: ((build: (q: Db) => PromiseLike<unknown>[]) =>
      orStoreError(db.transaction((tx) => Promise.all(build(tx as unknown as Db))))) as unknown as Store["atomic"],
    compile: (statement: SQL) => dialect.sqlToQuery(statement).sql,
    run: transaction,
    migrate: () =>
      migrate({ folder: "postgres", parameter: "$1", transaction: async (list) => (await transaction(list)).at(-1) ?? [] }),
    expiredAt: () => null,
    leavingTaken: fragment`for update skip locked`,
    ping: async () => void (await transaction([{ sql: "select 1", params: [] }])),
    close: () => client.close(),
  };
}
