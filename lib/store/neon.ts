import { neon, neonConfig, types as neonTypes } from "@neondatabase/serverless";
import { sql as fragment, type SQL } from "drizzle-orm";
import { drizzle } from "drizzle-orm/neon-http";
import { PgDialect } from "drizzle-orm/pg-core";
import { request } from "undici";
import * as tables from "../../schema/postgres.ts";
import { type Db, orStoreError, type Statement, type Store } from "./store.ts";
import { temporalAsText } from "./types.ts";

const types = temporalAsText(neonTypes);
const TIMEOUT_MS = 10_000;

/**
 * Neon over HTTP: every query is one request, a transaction too. `endpoint` overrides the address derived from the host.
 * The driver has neither a timeout nor a retry, so the request carries a signal and callers make writes repeatable.
 */
export function openNeon(url: string, endpoint?: string): Store {
  if (endpoint) neonConfig.fetchEndpoint = endpoint;
  neonConfig.fetchFunction = post;
  const sql = neon(url, { fullResults: true, arrayMode: true });
  const db = drizzle(neon(url));
  const dialect = new PgDialect();

  const transaction = async (statements: readonly Statement[]): Promise<unknown[][][]> => {
    const queries = statements.map(({ sql: text, params }) => sql.query(text, params as unknown[], { types }));
    const results = await orStoreError(queries.length === 1 ? Promise.all(queries) : sql.transaction(queries));
    return results.map((result) => result.rows);
  };

  return {
    ...(tables as unknown as Store),
    db: db as unknown as Db,
    atomic: ((build: (q: Db) => never) => orStoreError(db.batch(build(db as unknown as Db)))) as unknown as Store["atomic"],
    compile: (statement: SQL) => dialect.sqlToQuery(statement).sql,
    run: transaction,
    snapshot: async () => ({ db: db as unknown as Db, end: async () => {} }),
    // A function never does.
    migrate: async () => {
      const { migrate } = await import("./migrate.ts");
      return migrate({
        folder: "postgres",
        parameter: "$1",
        transaction: async (list) => (await transaction(list)).at(-1) ?? [],
      });
    },
    expiredAt: () => null,
    leavingTaken: fragment`for update skip locked`,
    ping: async () => void (await transaction([{ sql: "select 1", params: [] }])),
    close: async () => {},
  };
}

/** What the driver needs of `fetch`, at a fraction of its cost. */
async function post(url: string, init: { headers: Record<string, string>; body: string }) {
  const { statusCode, body } = await request(url, {
    method: "POST",
    headers: init.headers,
    body: init.body,
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  return {
    ok: statusCode >= 200 && statusCode < 300,
    status: statusCode,
    json: () => body.json(),
    text: () => body.text(),
  };
}
