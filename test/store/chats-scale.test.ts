import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import * as chats from "../../lib/repo/chats.ts";
import * as expiry from "../../lib/repo/expiry.ts";
import * as groups from "../../lib/repo/groups.ts";
import * as messages from "../../lib/repo/messages.ts";
import { openPostgres } from "../../lib/store/postgres.ts";
import { openSqlite } from "../../lib/store/sqlite.ts";
import type { Store } from "../../lib/store/store.ts";
import { freshDatabase, skippedWithoutPostgres } from "../support/postgres.ts";
import { claimed, expired, newClaim } from "./chatting.ts";
import { EXPIRED, expiring, inChat, LISTS, type Work } from "./hot.ts";
import { CHATS, fill, LARGE, MEMBER, ON_RECORD, OWNER, type Size } from "./many.ts";
import { postgresPlans, sqliteCounts, sqlitePlan, statementsOf } from "./plans.ts";

const FILLING_MS = 180_000;
const SMALL: Size = { messages: 1_000, others: 1_000 };
const { empty, young, large, quiet } = CHATS;
const NAMES = Object.keys(inChat(young));
/** What grows for ever. People and groups are few beside it, and may be read whole where that is less than looking some up. */
const GROWING = ["messages", "chats", "chat_users", "group_members", "templates"];
/** The index by which each finds the messages of a chat. */
const INDEXES: Record<string, string> = {
  "newest page": "messages_chat",
  "page before": "messages_chat",
  changed: "messages_chat",
  running: "messages_streaming",
  "ask to stop": "messages_streaming",
  claim: "messages_context",
};

const NEVER = null;
/** As many steps, but for the look at how old each message is. */
const asMuchAs = (steps: number) => steps * 1.1 + 10;
const HALF_WAY = EXPIRED["half way"];
/** What goes with each reply, and what the administrator deletes at once. */
const PRUNED_AT_ONCE = [100, 500];

/** What is answered from so much is what is there. */
function answersSuite(current: () => Store): void {
  test("behind 100,000 messages off the record the context is what was said before them", async () => {
    const claim = newClaim({ id: quiet }, { id: MEMBER, username: "" });
    const { message, pairs } = await claimed(current(), claim);
    expect(message.seq).toBeGreaterThan(LARGE.messages + ON_RECORD);
    expect(pairs.map(({ prompt }) => prompt)).toEqual(Array.from({ length: 10 }, (_, i) => `What is ${ON_RECORD - i}?`));
    await messages.remove(current(), claim, OWNER);
  });
}

/** The same where half of it has expired. It comes last, because it leaves a gap in the numbers of each chat. */
function expiredAnswersSuite(current: () => Store): void {
  test("where half of it has expired the context is what was said last, and nothing where all of it is older", async () => {
    const contextIn = async (id: string) => {
      const claim = newClaim({ id }, { id: MEMBER, username: "" }, { at: new Date() });
      const { pairs } = await claimed(expired(current(), HALF_WAY), claim);
      await messages.remove(current(), claim, OWNER);
      return pairs.map(({ prompt }) => prompt);
    };
    const newest = LARGE.messages - 1;
    expect(await contextIn(large)).toEqual(Array.from({ length: 10 }, (_, i) => `What is ${newest - i}?`));
    expect([await contextIn(young), await contextIn(quiet)]).toEqual([[], []]);
  });
}

describe("SQLite, with 100,000 messages in a chat and 100,000 chats of others", () => {
  const folders: string[] = [];
  const open = async (size: Size) => {
    const folder = await mkdtemp(join(tmpdir(), "proxy-gpt-scale-"));
    folders.push(folder);
    const store = openSqlite(join(folder, "proxy.db"));
    await store.migrate();
    await fill(store, "sqlite", size);
    return store;
  };
  let store: Store;
  let small: Store;
  beforeAll(async () => {
    [store, small] = [await open(LARGE), await open(SMALL)];
  }, FILLING_MS);
  afterAll(async () => {
    await Promise.all([store?.close(), small?.close()]);
    await Promise.all(folders.map((folder) => rm(folder, { recursive: true })));
  });

  /** What SQLite will do for a piece of work in the large store, a line for each step. */
  const plansOf = async (work: Work) => {
    const statements = await statementsOf(store, "sqlite", work);
    return statements.flatMap((statement) => sqlitePlan(join(folders[0] as string, "proxy.db"), statement));
  };

  answersSuite(() => store);

  test.each(NAMES)(
    "%s: takes the same steps in every chat and every store, whatever has expired, and passes through no table",
    async (name) => {
      const stepsOf = async (
        chat: string,
        until: Date | null,
        { in: it, size }: { in: Store; size: Size } = { in: store, size: LARGE },
      ) => {
        const counts = await sqliteCounts(it, expiring(until, inChat(chat, size)[name] as Work));
        expect(counts).toMatchObject({ scanned: 0, indexed: 0, sorted: 0 });
        return counts.steps;
      };
      const never = await stepsOf(young, NEVER);
      for (const until of [NEVER, EXPIRED["before all of them"]]) {
        const most = 2 + (until === NEVER ? never : await stepsOf(young, until));
        const few = await stepsOf(large, until, { in: small, size: SMALL });
        expect(few).toBeGreaterThan(10);
        const steps = [few];
        for (const chat of [empty, large, quiet]) steps.push(await stepsOf(chat, until));
        expect(Math.max(...steps)).toBeLessThanOrEqual(most);
        expect(Math.max(most, ...steps)).toBeLessThanOrEqual(asMuchAs(never));
      }
      const half: number[] = [];
      for (const chat of [empty, young, large, quiet]) half.push(await stepsOf(chat, HALF_WAY));
      expect(Math.max(...half)).toBeLessThanOrEqual(asMuchAs(never));
    },
  );

  test.each(Object.entries(LISTS))("%s: passes through no table, and counts what is theirs alone", async (name, { work }) => {
    const counts = await sqliteCounts(store, work);
    expect(counts).toMatchObject({ statements: 1, scanned: 0, indexed: 0 });
    // A busy owner has more chats where there are more, 1,063 in all.
    const few = await sqliteCounts(small, work);
    const most = name.includes("busy") ? 1_063 * 25 : few.steps * 1.05;
    expect(counts.steps).toBeLessThanOrEqual(most);
  });

  test.each(["messages_context", "messages_chat", "messages_streaming"])(
    "%s is what its statements are planned with",
    async (index) => {
      for (const [name, wanted] of Object.entries(INDEXES)) {
        if (wanted !== index) continue;
        for (const until of [NEVER, HALF_WAY]) {
          const plans = await plansOf(expiring(until, inChat(large)[name] as Work));
          const found = plans.some((line) => /^SEARCH messages/.test(line) && line.includes(` ${index} (chat_id=?`));
          expect([name, until, found]).toEqual([name, until, true]);
          expect([name, until, plans.filter((line) => /^SCAN/.test(line))]).toEqual([name, until, []]);
        }
      }
    },
  );

  expiredAnswersSuite(() => store);

  test.each(PRUNED_AT_ONCE)("pruning %i: finds them by their age, and looks at no other message", async (limit) => {
    const prune: Work = expiring(HALF_WAY, (store) => expiry.prune(store, limit));
    const plans = await plansOf(prune);
    expect(plans).toContainEqual(expect.stringMatching(/^SEARCH messages USING .*INDEX messages_created \(created_at<\?\)/));
    expect(plans.filter((line) => /^SCAN messages|TEMP B-TREE/.test(line))).toEqual([]);
    const [many, few] = [await sqliteCounts(store, prune), await sqliteCounts(small, prune)];
    expect(many).toMatchObject({ indexed: 0, sorted: 0 });
    expect(few.steps).toBeGreaterThan(limit);
    expect(many.steps).toBeLessThanOrEqual(few.steps * 1.05 + 50);
    // With each reply it is asked, and mostly there is nothing to do.
    const nothing = await sqliteCounts(
      store,
      expiring(EXPIRED["before all of them"], (store) => expiry.prune(store, limit)),
    );
    expect(nothing).toMatchObject({ statements: 1, scanned: 0, indexed: 0, sorted: 0 });
    expect(nothing.steps).toBeLessThan(100);
  });

  test("a chat goes, and a group with its chats, without a look at what others said", async () => {
    await groups.addMembers(store, "group-2", ["user-7"], "owner", new Date());
    for (const work of [
      () => chats.remove(store, young, OWNER).then((gone) => expect(gone).not.toBeNull()),
      () => groups.remove(store, "group-2", "user-7").then((gone) => expect(gone).toBe(true)),
    ]) {
      const counts = await sqliteCounts(store, work);
      expect(counts).toMatchObject({ scanned: 0, indexed: 0 });
      expect(counts.steps).toBeLessThan(10_000);
    }
  });
});

const STATISTICS = "with statistics";
const skipped = skippedWithoutPostgres("the plans of chats");

describe.skipIf(skipped)("Postgres, with 100,000 messages in a chat and 100,000 chats of others", () => {
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let store: Store;
  let client: pg.Client;
  beforeAll(async () => {
    database = await freshDatabase();
    store = openPostgres(database.url);
    await store.migrate();
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
    // Statistics come when this test says so.
    for (const table of ["users", "groups", "group_members", "chats", "chat_users", "messages", "templates"])
      await client.query(`alter table ${table} set (autovacuum_enabled = false)`);
    await fill(store, "postgres");
  }, FILLING_MS);
  afterAll(async () => {
    await client?.end();
    await store?.close();
    await database?.drop();
  });

  /** All that a piece of work cost, the second time: the first writes down what it found out about rows. */
  const cost = async (work: Work) => {
    const statements = await statementsOf(store, "postgres", work);
    await postgresPlans(client, statements);
    const plans = await postgresPlans(client, statements);
    return {
      rows: plans.reduce((sum, { rows }) => sum + rows, 0),
      pages: plans.reduce((sum, { pages }) => sum + pages, 0),
      scanned: plans.flatMap(({ scanned }) => scanned),
      indexes: new Set(plans.flatMap(({ indexes }) => indexes)),
    };
  };

  describe.each(["before the first statistics", STATISTICS])("%s", (when) => {
    beforeAll(async () => {
      // Of all rows: by a sample that is drawn anew each time, another plan comes up now and then, which reads more of the member's own.
      if (when === STATISTICS) await client.query("set default_statistics_target = 1000; analyze");
    });

    answersSuite(() => store);

    test.each(NAMES)("%s: reads as many rows and pages in a large chat as in a young one", async (name) => {
      const of = (chat: string) => cost(inChat(chat)[name] as Work);
      const [none, few] = [await of(empty), await of(young)];
      for (const many of [await of(large), await of(quiet)]) {
        expect(many.scanned.filter((table) => [...GROWING, "users", "groups"].includes(table))).toEqual([]);
        expect([...many.indexes]).toContain(INDEXES[name] ?? [...few.indexes][0]);
        expect(many.rows).toBeLessThanOrEqual(few.rows + 5);
        expect(many.pages).toBeLessThanOrEqual(few.pages * 1.2 + 20);
        // A chat in which nothing was said has no context to read, and all else is the same.
        if (name.startsWith("claim")) expect(many.pages).toBeLessThanOrEqual(none.pages * 1.2 + 50);
      }
      expect(few.rows).toBeGreaterThan(0);
    });

    const cases = NAMES.flatMap((name) => Object.entries(EXPIRED).map(([when, until]) => [name, when, until] as const));
    test.each(cases)("%s: reads as much and by the same index where what was made %s has expired", async (name, _, until) => {
      const few = await cost(inChat(young)[name] as Work);
      for (const chat of [large, quiet]) {
        const many = await cost(expiring(until, inChat(chat)[name] as Work));
        expect(many.scanned.filter((table) => [...GROWING, "users", "groups"].includes(table))).toEqual([]);
        expect([...many.indexes]).toContain(INDEXES[name] ?? [...few.indexes][0]);
        expect(many.rows).toBeLessThanOrEqual(few.rows + 5);
        expect(many.pages).toBeLessThanOrEqual(few.pages * 1.2 + 20);
      }
    });

    test.each(PRUNED_AT_ONCE)("pruning %i: finds them by their age, and looks at no other message", async (limit) => {
      const it = await cost(expiring(HALF_WAY, (store) => expiry.prune(store, limit)));
      expect(it.scanned).toEqual([]);
      expect([...it.indexes]).toContain("messages_created");
      expect(it.rows).toBeGreaterThanOrEqual(limit);
      expect(it.rows).toBeLessThanOrEqual(2 * limit + 5);
      const nothing = await cost(expiring(EXPIRED["before all of them"], (store) => expiry.prune(store, limit)));
      expect(nothing).toMatchObject({ scanned: [], rows: 0 });
    });

    // Without statistics Postgres cannot know that somebody's chats are few among all.
    const lists = when === STATISTICS ? Object.entries(LISTS) : [];
    test.each(lists)("%s: reads what is theirs alone", async (_, { work, most }) => {
      const it = await cost(work);
      expect(it.scanned.filter((table) => GROWING.includes(table))).toEqual([]);
      expect(it.rows).toBeLessThanOrEqual(most);
    });

    expiredAnswersSuite(() => store);
  });

  test("a statement that is looked at is one that is sent", async () => {
    const sent = vi.spyOn(pg.Client.prototype, "query");
    try {
      const lists = Object.fromEntries(Object.entries(LISTS).map(([name, { work }]) => [name, work]));
      for (const [name, work] of Object.entries({ ...inChat(young), ...lists })) {
        sent.mockClear();
        await work(store);
        const texts = sent.mock.calls.map(([it]) => (typeof it === "string" ? it : (it as { text: string }).text));
        const expected = (await statementsOf(store, "postgres", work)).map(({ sql }) => sql);
        expect([name, texts.filter((text) => text !== "begin" && text !== "commit")]).toEqual([name, expected]);
      }
    } finally {
      sent.mockRestore();
    }
  });
});
