import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as expiry from "../../lib/repo/expiry.ts";
import * as messages from "../../lib/repo/messages.ts";
import { openPostgres } from "../../lib/store/postgres.ts";
import type { Store } from "../../lib/store/store.ts";
import { freshDatabase, skippedWithoutPostgres } from "../support/postgres.ts";
import { until } from "../support/relay.ts";
import { chatOf, expired, people, saidBefore } from "./chatting.ts";
import { at } from "./people.ts";

describe.skipIf(skippedWithoutPostgres("pruning beside other deletions"))("Postgres", () => {
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let store: Store;
  let other: pg.Client;
  beforeAll(async () => {
    database = await freshDatabase();
    store = openPostgres(database.url);
    await store.migrate();
    other = new pg.Client({ connectionString: database.url });
    await other.connect();
  });
  afterAll(async () => {
    await other?.end();
    await store?.close();
    await database?.drop();
  });
  const waiting = async () => (await other.query("select 1 from pg_locks where not granted")).rowCount !== 0;

  test("pruning and another deletion of the same messages are both done, in whatever order each goes through them", async () => {
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const ids = await saidBefore(store, chat, anna, 100, at());
    const remove = (some: readonly string[]) => other.query("delete from messages where id = any($1)", [some]);
    // The other is half through when the pruning begins, and goes on when that is done, or waits for it.
    await other.query("begin");
    await remove(ids.slice(50, 51));
    let done = false;
    const pruned = expiry.prune(expired(store, at()), 100).finally(() => {
      done = true;
    });
    await Promise.race([pruned, until(async () => done || (await waiting()))]);
    const removed = remove(ids).then(() => other.query("commit"));
    const ends = await Promise.allSettled([pruned, removed]);
    expect(ends.map((end) => (end.status === "fulfilled" ? "done" : String(end.reason?.cause ?? end.reason)))).toEqual(
      Array(2).fill("done"),
    );
    expect(await messages.page(store, chat.id, undefined, 1_000)).toEqual([]);
  });
});
