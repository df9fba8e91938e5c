import { eq, type SQL, sql } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from "vitest";
import * as users from "../../lib/repo/users.ts";
import { type Store, StoreError, storeError } from "../../lib/store/store.ts";
import { at, newUser } from "./people.ts";
import { chatsSuite } from "./suite-chats.ts";
import { clearSuite } from "./suite-clear.ts";
import { eventsSuite } from "./suite-events.ts";
import { expirySuite } from "./suite-expiry.ts";
import { groupsSuite } from "./suite-groups.ts";
import { imagesSuite } from "./suite-images.ts";
import { ledgerSuite } from "./suite-ledger.ts";
import { messagesSuite } from "./suite-messages.ts";
import { peopleSuite } from "./suite-people.ts";
import { settingsSuite } from "./suite-settings.ts";
import { templatesSuite } from "./suite-templates.ts";

/** An adapter under test: each call opens a store over new, empty data. */
export type Adapter = { name: string; open(): Promise<{ store: Store; close(): Promise<void> }> };

/** What every store must do, whatever is behind it. */
export function storeSuite({ name, open }: Adapter): void {
  describe(name, () => {
    let opened: Awaited<ReturnType<Adapter["open"]>>;
    beforeAll(async () => {
      opened = await open();
      await opened.store.migrate();
    });
    afterAll(() => opened?.close());
    const current = () => opened.store;

    describe("store", () => contractSuite(current));
    describe("people", () => peopleSuite(current));
    describe("ledger", () => ledgerSuite(current));
    describe("events", () => eventsSuite(current));
    describe("groups", () => groupsSuite(current));
    describe("chats", () => chatsSuite(current));
    describe("messages", () => messagesSuite(current));
    describe("a clear", () => clearSuite(current));
    describe("expiry", () => expirySuite(current));
    describe("images", () => imagesSuite(current));
    describe("settings", () => settingsSuite(current));
    describe("templates", () => templatesSuite(current));
  });
}

function contractSuite(current: () => Store): void {
  test("atomic() answers every statement's result, each in its own type", async () => {
    const store = current();
    const user = newUser({ name: "Ada" });
    const [, [read], changed, nobody] = await store.atomic((q) => [
      users.insert(q, store, user),
      users.select(q, store, user.id),
      users.setDisabled(q, store, user.id, at(5)),
      users.credentialsOf(q, store, "no-such-name"),
    ]);
    expectTypeOf(read).toEqualTypeOf<users.UserView | undefined>();
    expectTypeOf(changed).toEqualTypeOf<{ id: string }[]>();
    expect(read).toMatchObject({ id: user.id, name: "Ada", disabledAt: null, createdAt: at() });
    expect(changed).toEqual([{ id: user.id }]);
    expect(nobody).toEqual([]);
    expect(await users.find(store, user.id)).toMatchObject({ disabledAt: at(5) });
  });

  test("a conflict undoes the whole of an atomic(), before it and after it", async () => {
    const store = current();
    const [first, second, third] = [newUser(), newUser(), newUser()];
    await store.atomic((q) => [users.insert(q, store, first)]);
    const failure = await store
      .atomic((q) => [
        users.insert(q, store, second),
        users.insert(q, store, { ...newUser(), username: first.username }),
        users.insert(q, store, third),
      ])
      .catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(StoreError);
    expect(failure).toMatchObject({ conflict: true, permanent: true });
    expect(await users.find(store, second.id)).toBeNull();
    expect(await users.find(store, third.id)).toBeNull();
    expect(await users.find(store, first.id)).not.toBeNull();
  });

  test("a foreign key that leads nowhere is a conflict", async () => {
    const store = current();
    const orphan = { ...sessionRow(store), userId: uuidv7() };
    const failure = await store.db
      .insert(store.sessions)
      .values(orphan)
      .then(
        () => null,
        (error: unknown) => storeError(error),
      );
    expect(failure).toMatchObject({ conflict: true });
  });

  test("run() is all or nothing as well", async () => {
    const store = current();
    const key = uuidv7();
    const insert = (value: string | null) => ({
      sql: store.compile(
        sql`insert into ${store.settings} (key, value) values (${sql.placeholder("k")}, ${sql.placeholder("v")})`,
      ),
      params: [key, value],
    });
    for (const list of [
      [insert("one"), insert("two")],
      [insert("one"), insert(null)],
    ]) {
      const failure = await store.run(list).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(StoreError);
      expect(failure).toMatchObject({ conflict: true, permanent: true });
    }
    expect(await store.db.select().from(store.settings).where(eq(store.settings.key, key))).toEqual([]);
    await store.run([insert("one")]);
    expect(await store.db.select().from(store.settings).where(eq(store.settings.key, key))).toEqual([{ key, value: "one" }]);
  });

  test("a statement that is wrong is permanent, one by one and in company, and the store goes on", async () => {
    const store = current();
    const wrong = [
      { sql: "select missing from users", params: [] },
      { sql: "select * from no_such_table", params: [] },
      { sql: "selekt 1", params: [] },
    ];
    for (const statement of wrong) {
      for (const list of [[statement], [{ sql: "select 1", params: [] }, statement]]) {
        const failure = await store.run(list).catch((error: unknown) => error);
        expect(failure).toBeInstanceOf(StoreError);
        expect(failure).toMatchObject({ conflict: false, permanent: true });
      }
    }
    const built = await store
      .atomic((q) => [q.select({ missing: sql`missing` }).from(store.users)])
      .catch((error: unknown) => error);
    expect(built).toBeInstanceOf(StoreError);
    expect(built).toMatchObject({ conflict: false, permanent: true });
    await store.ping();
  });

  test("run() answers rows that the columns decode to the same values everywhere", async () => {
    const { db, run, compile, outcomes, usage } = current();
    const eventId = uuidv7();
    const responseBody = "naïve 🎉 \"quotes\" 'too' \\ \n日本";
    await db
      .insert(outcomes)
      .values({ eventId, endedAt: at(999), status: 200, durationMs: 7, tokensEstimated: true, responseBody });
    const requests = 2 ** 52 + 1;
    await db.insert(usage).values({ userId: eventId, day: "2026-11-21", requests, promptTokens: 0, completionTokens: 7 });
    const one = (statement: SQL) => ({ sql: compile(statement), params: [eventId] });
    const id = sql.placeholder("id");
    const [[found], [counted]] = (await run([
      one(sql`select event_id, ended_at, status, tokens_estimated, response_body, model from ${outcomes} where event_id = ${id}`),
      one(sql`select requests, completion_tokens from ${usage} where user_id = ${id}`),
    ])) as [[unknown[]], [unknown[]]];
    const { endedAt, status, tokensEstimated } = outcomes;
    const decoded = [outcomes.eventId, endedAt, status, tokensEstimated].map((column, i) =>
      column.mapFromDriverValue(found[i] as never),
    );
    expect(decoded).toEqual([eventId, at(999), 200, true]);
    expect(found.slice(4)).toEqual([responseBody, null]);
    expect(counted.map((value) => usage.requests.mapFromDriverValue(value as never))).toEqual([requests, 7]);
  });

  test("many writes at once, alone and together, all arrive", async () => {
    const store = current();
    const people = Array.from({ length: 40 }, () => newUser());
    await Promise.all(
      people.map((user, i) =>
        i % 2 === 0 ? users.insert(store.db, store, user) : store.atomic((q) => [users.insert(q, store, user)]),
      ),
    );
    const found = await Promise.all(people.map(({ id }) => users.find(store, id)));
    expect(found.map((user) => user?.id)).toEqual(people.map(({ id }) => id));
  });

  test("a second start finds nothing to migrate", async () => expect(await current().migrate()).toEqual([]));
}

const sessionRow = ({ sessions: _ }: Store) => ({
  hash: uuidv7(),
  id: uuidv7(),
  kind: "session" as const,
  hint: "abcd",
  createdAt: at(),
  lastUsedAt: at(),
  expiresAt: at(1),
  endsAt: at(1),
});
