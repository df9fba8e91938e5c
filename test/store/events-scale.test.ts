import { drizzle } from "drizzle-orm/pg-proxy";
import pg from "pg";
import { uuidv7 } from "uuidv7";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type EventFilter, search } from "../../lib/repo/events.ts";
import { openPostgres } from "../../lib/store/postgres.ts";
import type { Db, Store } from "../../lib/store/store.ts";
import { freshDatabase, skippedWithoutPostgres } from "../support/postgres.ts";
import { at, idAt } from "./people.ts";

const ROWS = 50_000;
const SECOND_MS = 1_000;

/** One event a second, of 100 users in turn; every tenth in one of 50 chats and one of 20 groups. */
const FILL = `
  with made as (
    select i, lpad(to_hex($1::bigint + i * 1000), 12, '0') as hex from generate_series(0, ${ROWS - 1}) i
  ), ids as (
    select i, substr(hex, 1, 8) || '-' || substr(hex, 9) || '-7000-8000-' || lpad(to_hex(i), 12, '0') as id from made
  ), filled as (
    insert into events (id, started_at, user_id, chat_id, group_id, endpoint, method, path, query, address)
    select id, to_timestamp(($1::bigint + i * 1000) / 1000.0), 'user-' || i % 100, case when i % 10 = 0 then 'chat-' || i / 10 % 50 end,
      case when i % 10 = 0 then 'group-' || i / 10 % 20 end, 'proxy.v1', 'POST', '/v1/chat/completions', '', '127.0.0.1' from ids
  )
  insert into outcomes (event_id, ended_at, status, duration_ms, model, request_body)
  select id, now(), case when i % 50 = 0 then 500 else 200 end, 7, 'gpt-4o', repeat('x', 200) from ids`;

describe.skipIf(skippedWithoutPostgres("the plans of event searches"))("among many events", () => {
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let store: Store;
  let client: pg.Client;
  beforeAll(async () => {
    database = await freshDatabase();
    store = openPostgres(database.url);
    await store.migrate();
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
    await client.query(FILL, [at().getTime()]);
    await client.query("analyze");
  });
  afterAll(async () => {
    await client?.end();
    await store?.close();
    await database?.drop();
  });

  /** The plan of the very statement that a search sends. */
  const planOf = async (filter: Partial<EventFilter>): Promise<string> => {
    const sent: { sql: string; params: unknown[] }[] = [];
    const db = drizzle(async (sql, params) => {
      sent.push({ sql, params });
      return { rows: [] };
    });
    await search({ ...store, db: db as unknown as Db }, { limit: 100, ...filter });
    const [statement] = sent;
    const { rows } = await client.query({
      text: `explain ${statement?.sql}`,
      values: statement?.params as unknown[],
      rowMode: "array",
    });
    return rows.flat().join("\n");
  };
  const since = at(10_000 * SECOND_MS);
  const until = at(40_000 * SECOND_MS);

  test.each<[string, string, Partial<EventFilter>]>([
    ["a user's, in a time", "events_user", { user: "user-7", since, until }],
    ["a user's, page by page", "events_user", { user: "user-7", before: idAt(until) }],
    ["a user's, as they come", "events_user", { user: "user-7", after: idAt(since) }],
    ["a chat's, in a time", "events_chat", { chat: "chat-7", since, until }],
    ["a group's, page by page", "events_group", { group: "group-7", before: idAt(until) }],
    ["everyone's, in a time", "events_pkey", { since, until }],
    ["everyone's, newest first", "events_pkey", {}],
    ["named ones", "events_pkey", { ids: [uuidv7(), uuidv7()] }],
  ])("%s are found through %s", async (_, index, filter) => {
    const plan = await planOf(filter);
    expect(plan).toContain(index);
    expect(plan).not.toContain("Seq Scan");
  });

  test("and they are found", async () => {
    const found = await search(store, { user: "user-7", since, until, limit: 1_000 });
    expect(found).toHaveLength(300);
    expect(found[0]).toMatchObject({ startedAt: at(39_907 * SECOND_MS), status: 200, model: "gpt-4o" });
    expect(await search(store, { chat: "chat-7", status: 500, limit: 1_000 })).toHaveLength(0);
    expect(await search(store, { chat: "chat-5", status: 500, since, limit: 1_000 })).toHaveLength(80);
  });
});
