import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

/** One HTTP request, which is one round trip. `transaction` is true for a batch, whatever its length. */
export type NeonRequest = { queries: string[]; transaction: boolean };

/**
 * `dropAnswer` runs the request, commits it and then destroys the connection. `refuse` destroys the connection and
 * `status500` answers, both without running anything. `delayMs` waits before running.
 */
export type NeonFault = "dropAnswer" | "refuse" | "status500" | { delayMs: number };

export type NeonBridge = {
  /** For `neonConfig.fetchEndpoint`. */
  endpoint: string;
  /** Every request since the start, oldest first, including those that met a fault. Tests may empty it. */
  requests: NeonRequest[];
  /** Called before a request runs; the request waits for the promise it returns. */
  onRequest: ((request: NeonRequest) => void | Promise<void>) | undefined;
  /** Applies the fault to the next `count` requests, after those already promised to an earlier call. */
  fail(fault: NeonFault, count?: number): void;
  close(): Promise<void>;
};

/**
 * Neon's SQL over HTTP, served from a real Postgres, as `@neondatabase/serverless` 1.2 speaks it. The database named in the
 * caller's connection string is used; host, port, user and password are those of `postgresUrl`. A caller that hangs up does
 * not cancel its queries.
 */
export async function startNeonBridge(postgresUrl: string): Promise<NeonBridge> {
  const pools = openPools(postgresUrl);
  const faults: NeonFault[] = [];
  const closing = new AbortController();

  const answer = async (req: IncomingMessage): Promise<Answer | null> => {
    if (req.method !== "POST" || req.url !== "/sql") return { status: 404, body: { message: "not found" } };
    const body = await readBody(req);
    const request = { queries: queriesOf(body).map(({ query }) => query), transaction: "queries" in body };
    bridge.requests.push(request);
    const fault = faults.shift();
    await bridge.onRequest?.(request);
    if (fault === "refuse") return null;
    if (fault === "status500") return { status: 500, body: { message: "told to fail" } };
    if (typeof fault === "object") await sleep(fault.delayMs, undefined, { signal: closing.signal });
    const result = await pools.use(databaseIn(req.headers), (client) => execute(client, body, req.headers)).then(ok, refusal);
    return fault === "dropAnswer" ? null : result;
  };

  const server = createServer(async (req, res) => {
    const result = await answer(req).catch(refusal);
    if (result) send(res, result);
    else req.socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;

  const bridge: NeonBridge = {
    endpoint: `http://127.0.0.1:${port}/sql`,
    requests: [],
    onRequest: undefined,
    fail: (fault, count = 1) => {
      faults.push(...Array<NeonFault>(count).fill(fault));
    },
    close: async () => {
      closing.abort();
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await Promise.all([closed, pools.close()]);
    },
  };
  return bridge;
}

type Query = { query: string; params?: unknown[] };
type Body = Query | { queries: Query[] };
type Answer = { status: number; body: unknown };

const isolationLevels = new Map([
  ["ReadUncommitted", "READ UNCOMMITTED"],
  ["ReadCommitted", "READ COMMITTED"],
  ["RepeatableRead", "REPEATABLE READ"],
  ["Serializable", "SERIALIZABLE"],
]);

const errorFields = [
  ...(["code", "detail", "hint", "position", "internalPosition", "internalQuery", "severity", "where"] as const),
  ...(["table", "column", "schema", "dataType", "constraint", "file", "line", "routine"] as const),
];

/** bool, int2, int4, json, float4, float8, jsonb: the types Neon turns into JSON when raw text is not asked for. */
const jsonTypes = new Set([16, 21, 23, 114, 700, 701, 3802]);

class BadRequest extends Error {}

/** A pool per database, because a session's database is fixed when it connects. */
function openPools(postgresUrl: string) {
  const pools = new Map<string, pg.Pool>();
  const busy = new Set<pg.PoolClient>();

  const poolFor = (database: string) => {
    const known = pools.get(database);
    if (known) return known;
    const url = new URL(postgresUrl);
    url.pathname = database;
    // The answer carries Postgres' own text, so no value is parsed here.
    const types = { getTypeParser: () => (value: string) => value } as unknown as pg.CustomTypesConfig;
    const pool = new pg.Pool({ connectionString: url.href, max: 20, types });
    // A session that Postgres ends, busy or idle, fails its query or leaves the pool; neither may end the test process.
    pool.on("error", () => {});
    pool.on("connect", (client) => client.on("error", () => {}));
    pools.set(database, pool);
    return pool;
  };

  return {
    use: async <T>(database: string, run: (client: pg.PoolClient) => Promise<T>): Promise<T> => {
      const client = await poolFor(database).connect();
      busy.add(client);
      try {
        return await run(client);
      } finally {
        busy.delete(client);
        // Neon carries no session state from one request to the next. This fails in a transaction left open, and ends it.
        const reset = client.query("DISCARD ALL");
        await reset.then(() => client.release()).catch((error) => client.release(error));
      }
    },
    /** Ends sessions that still run a query, rather than waiting for it. */
    close: async () => {
      for (const client of busy) client.connection.stream.destroy();
      await Promise.all([...pools.values()].map((pool) => pool.end()));
    },
  };
}

async function execute(client: pg.PoolClient, body: Body, headers: IncomingHttpHeaders) {
  if (!("queries" in body)) return runQuery(client, body, headers);
  await client.query(`BEGIN ${transactionModes(headers)}`);
  try {
    const results = [];
    for (const query of body.queries) results.push(await runQuery(client, query, headers));
    await client.query("COMMIT");
    return { results };
  } catch (error) {
    await client.query("ROLLBACK").catch(() => {});
    throw error;
  }
}

async function runQuery(client: pg.PoolClient, { query, params = [] }: Query, headers: IncomingHttpHeaders) {
  // Without "extended", a text without parameters could hold several statements; Neon refuses those.
  const config: pg.QueryArrayConfig & { queryMode: "extended" } = {
    text: query,
    values: params,
    rowMode: "array",
    queryMode: "extended",
  };
  const { command, rowCount, fields, rows } = await client.query<(string | null)[]>(config);
  const rawText = headers["neon-raw-text-output"] === "true";
  const rowAsArray = headers["neon-array-mode"] === "true";
  const typed = (value: string | null, index: number): unknown => {
    const type = fields[index]?.dataTypeID;
    if (value === null || rawText || type === undefined || !jsonTypes.has(type)) return value;
    return pg.types.getTypeParser(type)(value);
  };
  const values = rows.map((row) => row.map(typed));
  return {
    command,
    rowCount,
    rowAsArray,
    rows: rowAsArray ? values : values.map((row) => Object.fromEntries(fields.map(({ name }, index) => [name, row[index]]))),
    fields: fields.map((field) => ({ ...field, format: "text" })),
  };
}

function transactionModes(headers: IncomingHttpHeaders): string {
  const isolation = headers["neon-batch-isolation-level"];
  const level = isolation === undefined ? undefined : isolationLevels.get(String(isolation));
  if (isolation !== undefined && !level) throw new BadRequest(`unknown isolation level ${isolation}`);
  const modes = [
    level && `ISOLATION LEVEL ${level}`,
    headers["neon-batch-read-only"] === "true" && "READ ONLY",
    headers["neon-batch-deferrable"] === "true" && "DEFERRABLE",
  ];
  return modes.filter(Boolean).join(", ");
}

function databaseIn(headers: IncomingHttpHeaders): string {
  const text = String(headers["neon-connection-string"]);
  const path = URL.canParse(text) ? new URL(text).pathname : "";
  if (path.length < 2) throw new BadRequest("Neon-Connection-String names no database");
  return path;
}

async function readBody(req: IncomingMessage): Promise<Body> {
  const chunks: Buffer[] = [];
  for await (const chunk of req) chunks.push(chunk);
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8")) as Body;
  } catch {
    throw new BadRequest("the body is not JSON");
  }
}

const queriesOf = (body: Body): Query[] => ("queries" in body ? body.queries : [body]);

const ok = (body: unknown): Answer => ({ status: 200, body });

/** 400 carries what Postgres said, field by field; anything else is the bridge's own failure. */
function refusal(error: unknown): Answer {
  if (error instanceof pg.DatabaseError) {
    const fields = Object.fromEntries(errorFields.map((field) => [field, error[field] ?? null]));
    return { status: 400, body: { message: error.message, ...fields } };
  }
  return { status: error instanceof BadRequest ? 400 : 500, body: { message: String(error) } };
}

function send(res: ServerResponse, { status, body }: Answer) {
  res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}
