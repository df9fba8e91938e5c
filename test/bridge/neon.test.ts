import { neon, neonConfig } from "@neondatabase/serverless";
import { eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/neon-http";
import { integer, jsonb, pgTable, text, timestamp } from "drizzle-orm/pg-core";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { freshDatabase, postgresUrl, skippedWithoutPostgres } from "../support/postgres.ts";
import { type NeonBridge, startNeonBridge } from "./neon.ts";

const notes = pgTable("notes", {
  id: text("id").primaryKey(),
  body: text("body").notNull(),
  stars: integer("stars").default(0).notNull(),
  tags: jsonb("tags").$type<string[]>(),
  createdAt: timestamp("created_at", { withTimezone: true }).defaultNow().notNull(),
});

describe.skipIf(skippedWithoutPostgres("Neon bridge"))("the Neon bridge", () => {
  let bridge: NeonBridge;
  let database: Awaited<ReturnType<typeof freshDatabase>>;

  /** What the product would be given: a host, user and password that only Neon knows. */
  const neonUrl = () => `postgresql://someone:secret@ep-test.eu.neon.invalid${new URL(database.url).pathname}?sslmode=require`;
  const client = () => neon(neonUrl());
  const db = () => drizzle(client());
  const newId = () => crypto.randomUUID();
  const bodyOf = async (id: string) => (await db().select().from(notes).where(eq(notes.id, id)))[0]?.body;

  beforeAll(async () => {
    database = await freshDatabase();
    bridge = await startNeonBridge(String(postgresUrl));
    neonConfig.fetchEndpoint = bridge.endpoint;
    await client().query(`CREATE TABLE notes (id text PRIMARY KEY, body text NOT NULL, stars integer NOT NULL DEFAULT 0
      CONSTRAINT stars_not_negative CHECK (stars >= 0), tags jsonb, created_at timestamptz NOT NULL DEFAULT now())`);
  });

  afterAll(async () => {
    await bridge?.close();
    await database?.drop();
  });

  beforeEach(() => {
    bridge.requests.length = 0;
  });

  test("values of every common type arrive as the driver parses Postgres' text", async () => {
    const [row] =
      await client()`SELECT 1::int AS n, 2::bigint AS big, 1.5::float8 AS f, true AS yes, null AS none, 'é'::text AS word,
      '{"a":[1]}'::jsonb AS doc, '\\x00ff'::bytea AS bytes, ARRAY['x', 'y']::text[] AS list, ${"it's"}::text AS param`;
    expect(row).toEqual({
      ...{ n: 1, big: "2", f: 1.5, yes: true, none: null, word: "é", doc: { a: [1] } },
      ...{ bytes: Buffer.from([0, 255]), list: ["x", "y"], param: "it's" },
    });
  });

  test("an insert returns its row in one round trip, and a select finds it", async () => {
    const id = newId();
    const createdAt = new Date("2026-01-02T03:04:05.678Z");
    const inserted = await db()
      .insert(notes)
      .values({ id, body: "hello", tags: ["a", "b"], createdAt })
      .returning();
    expect(bridge.requests).toEqual([{ queries: [expect.stringMatching(/^insert into "notes"/)], transaction: false }]);
    expect(inserted).toEqual([{ id, body: "hello", stars: 0, tags: ["a", "b"], createdAt }]);
    expect(await db().select().from(notes).where(eq(notes.id, id))).toEqual(inserted);
  });

  test("a write says what it was and how many rows it changed", async () => {
    const id = newId();
    await db().insert(notes).values({ id, body: "hello" });
    const updated = await db().update(notes).set({ stars: 1 }).where(eq(notes.id, id));
    expect(updated).toMatchObject({ command: "UPDATE", rowCount: 1 });
  });

  test("a batch is one round trip and one transaction", async () => {
    const id = newId();
    const transactionId = db().execute(sql`SELECT pg_current_xact_id()::text AS id`);
    const insert = db().insert(notes).values({ id, body: "batched" });
    const [before, written, rows, after] = await db().batch([
      transactionId,
      insert,
      db().select({ body: notes.body }).from(notes).where(eq(notes.id, id)),
      transactionId,
    ]);
    expect(written.rowCount).toBe(1);
    expect(rows).toEqual([{ body: "batched" }]);
    expect(after.rows).toEqual(before.rows);
    expect(bridge.requests.map(({ queries, transaction }) => [queries.length, transaction])).toEqual([[4, true]]);
  });

  test("a batch with a failing query leaves nothing behind", async () => {
    const id = newId();
    const batch = db().batch([
      db().insert(notes).values({ id, body: "first" }),
      db().insert(notes).values({ id, body: "second" }),
    ]);
    await expect(batch).rejects.toMatchObject({ code: "23505" });
    expect(await bodyOf(id)).toBeUndefined();
  });

  test("a batch runs at the isolation level, read only and deferrable as asked", async () => {
    const show = ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];
    const ask = (options: object) => client().transaction((tx) => show.map((name) => tx.query(`SHOW ${name}`)), options);
    const answers = async (options: object) => (await ask(options)).flatMap((rows) => rows.flatMap(Object.values));
    expect(await answers({ isolationLevel: "Serializable", readOnly: true, deferrable: true })).toEqual([
      "serializable",
      "on",
      "on",
    ]);
    expect(await answers({ isolationLevel: "RepeatableRead" })).toEqual(["repeatable read", "off", "off"]);
    expect(await answers({})).toEqual(["read committed", "off", "off"]);
    await expect(ask({ isolationLevel: "Loose" })).rejects.toThrow("unknown isolation level Loose");
  });

  test("an error carries Postgres' fields", async () => {
    const id = newId();
    await db().insert(notes).values({ id, body: "mine" });
    const again = db().insert(notes).values({ id, body: "yours" });
    await expect(again).rejects.toMatchObject({
      cause: {
        ...{ name: "NeonDbError", severity: "ERROR", code: "23505", schema: "public", table: "notes", constraint: "notes_pkey" },
        ...{ message: expect.stringContaining("duplicate key"), detail: `Key (id)=(${id}) already exists.` },
      },
    });
    const negative = client().query("INSERT INTO notes (id, body, stars) VALUES ($1, $2, $3)", [newId(), "less", -1]);
    await expect(negative).rejects.toMatchObject({ code: "23514", constraint: "stars_not_negative" });
    await expect(client().query("SELEC 1")).rejects.toMatchObject({ code: "42601", position: "1" });
  });

  test("two statements in one query are refused", async () => {
    await expect(client().query("SELECT 1; SELECT 2")).rejects.toMatchObject({ code: "42601" });
  });

  test("nothing of a session outlives its request, not even an open transaction", async () => {
    await client().query("SET statement_timeout = 12345");
    await client().query("BEGIN");
    const sessions = await Promise.all(Array.from({ length: 4 }, () => client().query("SHOW statement_timeout")));
    expect(sessions.flat()).toEqual(Array(4).fill({ statement_timeout: "0" }));
    await expect(
      client()
        .query("COMMIT")
        .then(() => client().query("SAVEPOINT s")),
    ).rejects.toMatchObject({ code: "25P01" });
  });

  test("the database is the one that the connection string names", async () => {
    expect(await client()`SELECT current_database() AS name`).toEqual([{ name: new URL(database.url).pathname.slice(1) }]);
    await expect(neon("postgresql://someone:secret@neon.invalid/nowhere")`SELECT 1`).rejects.toMatchObject({ code: "3D000" });
  });

  test("without the driver's headers, rows are objects of JSON values", async () => {
    const response = await fetch(bridge.endpoint, {
      method: "POST",
      headers: { "Neon-Connection-String": neonUrl() },
      body: JSON.stringify({
        query: "SELECT 1 AS n, true AS yes, '{}'::json AS doc, 2::bigint AS big, $1::text AS word",
        params: ["x"],
      }),
    });
    expect(response.status).toBe(200);
    const answer = await response.json();
    expect(answer).toMatchObject({ rowAsArray: false, rows: [{ n: 1, yes: true, doc: {}, big: "2", word: "x" }] });
    expect(answer.fields[0]).toMatchObject({ name: "n", dataTypeID: 23, dataTypeSize: 4, format: "text" });
  });

  test("a dropped answer is an error to the caller, though the write is committed", async () => {
    const id = newId();
    bridge.fail("dropAnswer");
    const insert = db().insert(notes).values({ id, body: "kept" });
    await expect(insert).rejects.toMatchObject({ cause: { message: expect.stringContaining("Error connecting to database") } });
    expect(await bodyOf(id)).toBe("kept");
    expect(bridge.requests).toHaveLength(2);
  });

  test("a refused or failed request writes nothing", async () => {
    const id = newId();
    const insert = () => client().query("INSERT INTO notes (id, body) VALUES ($1, 'no')", [id]);
    bridge.fail("refuse", 2);
    bridge.fail("status500");
    await expect(insert()).rejects.toThrow("Error connecting to database");
    await expect(insert()).rejects.toThrow("Error connecting to database");
    await expect(insert()).rejects.toThrow("Server error (HTTP status 500)");
    expect(await bodyOf(id)).toBeUndefined();
    expect(bridge.requests).toHaveLength(4);
  });

  test("a delayed request outlasts the caller's signal", async () => {
    bridge.fail({ delayMs: 60_000 });
    const given = neon(neonUrl(), { fetchOptions: { signal: AbortSignal.timeout(50) } })`SELECT 1`;
    await expect(given).rejects.toThrow("TimeoutError");
  });

  test("a request waits for the hook, so that a test can act before it runs", async () => {
    const id = newId();
    bridge.onRequest = async () => {
      bridge.onRequest = undefined;
      await db().insert(notes).values({ id, body: "first" });
    };
    expect(await bodyOf(id)).toBe("first");
  });

  test("a session that Postgres ends is an error to one caller only", async () => {
    const victim = client().query("SELECT pg_terminate_backend(pg_backend_pid())");
    await expect(victim).rejects.toMatchObject({ code: "57P01" });
    expect(await client()`SELECT 1 AS n`).toEqual([{ n: 1 }]);
  });

  test("closing ends requests that still run", async () => {
    const other = await startNeonBridge(String(postgresUrl));
    const holder = new pg.Client({ connectionString: database.url });
    await holder.connect();
    onTestFinished(() => holder.end());
    await holder.query("SELECT pg_advisory_lock(1)");
    const stuck = fetch(other.endpoint, {
      method: "POST",
      headers: { "Neon-Connection-String": neonUrl() },
      body: JSON.stringify({ query: "SELECT pg_advisory_lock(1)" }),
    });
    const ended = expect(stuck).rejects.toThrow("fetch failed");
    const waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    await vi.waitUntil(async () => (await holder.query(waiting)).rowCount === 1);
    await other.close();
    await ended;
  });
});
