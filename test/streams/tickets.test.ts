import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as sessions from "../../lib/repo/sessions.ts";
import * as tickets from "../../lib/repo/tickets.ts";
import { openNeon } from "../../lib/store/neon.ts";
import { openPostgres } from "../../lib/store/postgres.ts";
import { openSqlite } from "../../lib/store/sqlite.ts";
import type { Store } from "../../lib/store/store.ts";
import { mintToken } from "../../lib/token.ts";
import { startNeonBridge } from "../bridge/neon.ts";
import { at, signedIn } from "../store/people.ts";
import { openPglite } from "../support/pglite.ts";
import { freshDatabase, postgresUrl, skippedWithoutPostgres } from "../support/postgres.ts";

type Opened = { store: Store; close(): Promise<unknown> };
const sqlite = async (): Promise<Opened> => {
  const folder = await mkdtemp(join(tmpdir(), "proxy-gpt-tickets-"));
  const store = openSqlite(join(folder, "proxy.db"));
  return { store, close: () => store.close().then(() => rm(folder, { recursive: true })) };
};
const postgres = async (): Promise<Opened> => {
  const database = await freshDatabase();
  const store = openPostgres(database.url);
  return { store, close: () => store.close().then(database.drop) };
};
const pglite = async (): Promise<Opened> => {
  const store = await openPglite();
  return { store, close: () => store.close() };
};
const neon = async (): Promise<Opened> => {
  const [database, bridge] = await Promise.all([freshDatabase(), startNeonBridge(postgresUrl as string)]);
  const store = openNeon(database.url, bridge.endpoint);
  return { store, close: () => Promise.all([store.close(), bridge.close()]).then(database.drop) };
};

suite("SQLite", sqlite);
suite(postgresUrl ? "Postgres" : "PGlite", postgresUrl ? postgres : pglite);
describe.skipIf(skippedWithoutPostgres("tickets in Neon"))("over HTTP", () => suite("Neon", neon));

function suite(name: string, open: () => Promise<Opened>): void {
  describe(`a ticket in ${name}`, () => {
    let opened: Opened;
    let store: Store;
    beforeAll(async () => {
      opened = await open();
      store = opened.store;
      await store.migrate();
    });
    afterAll(() => opened?.close());

    const issue = async (sessionId: string, expiresAt = at(60_000)) => {
      const { hash } = mintToken("ticket");
      expect(await tickets.insert(store, { hash, sessionId, expiresAt })).toBe(true);
      return hash;
    };

    test("stands for its session, once, until its time", async () => {
      const { session, hash: sessionHash } = await signedIn(store);
      const [used, late] = [await issue(session.id), await issue(session.id)];
      expect(await tickets.redeem(store, used, at(59_999))).toBe(sessionHash);
      expect(await tickets.redeem(store, used, at(59_999))).toBeNull();
      expect(await tickets.redeem(store, late, at(60_000))).toBeNull();
      expect(await tickets.redeem(store, mintToken("ticket").hash, at())).toBeNull();
    });

    test("is taken by one of many who try at the same time", async () => {
      const { session, hash: sessionHash } = await signedIn(store);
      const hash = await issue(session.id);
      const taken = await Promise.all(Array.from({ length: 10 }, () => tickets.redeem(store, hash, at())));
      expect(taken.filter((it) => it !== null)).toEqual([sessionHash]);
    });

    test("is not made for a session that has gone, made twice, or left when its session goes", async () => {
      const { user, session } = await signedIn(store);
      const hash = await issue(session.id);
      expect(await tickets.insert(store, { hash, sessionId: session.id, expiresAt: at(60_000) })).toBe(false);
      await sessions.remove(store, session.id, user.id);
      expect(await tickets.redeem(store, hash, at())).toBeNull();
      const { hash: other } = mintToken("ticket");
      expect(await tickets.insert(store, { hash: other, sessionId: session.id, expiresAt: at(60_000) })).toBe(false);
      expect(await store.db.$count(store.tickets)).toBe(1);
    });

    test("that nobody took in time is pruned, a batch at a time", async () => {
      await store.db.delete(store.tickets);
      const { session } = await signedIn(store);
      for (let i = 0; i < 5; i++) await issue(session.id, at(i));
      const kept = await issue(session.id);
      expect(await tickets.pruneExpired(store, at(3), 3)).toBe(3);
      expect(await tickets.pruneExpired(store, at(3), 3)).toBe(1);
      expect(await tickets.pruneExpired(store, at(10), 3)).toBe(1);
      expect(await store.db.select({ hash: store.tickets.hash }).from(store.tickets)).toEqual([{ hash: kept }]);
    });
  });
}
