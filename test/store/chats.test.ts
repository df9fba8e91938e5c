import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { eq } from "drizzle-orm";
import { build } from "esbuild";
import pg from "pg";
import { uuidv7 } from "uuidv7";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import * as chatList from "../../lib/repo/chat-list.ts";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as groups from "../../lib/repo/groups.ts";
import * as messages from "../../lib/repo/messages.ts";
import { openNeon } from "../../lib/store/neon.ts";
import { openPostgres } from "../../lib/store/postgres.ts";
import { openSqlite } from "../../lib/store/sqlite.ts";
import { type Store, twice } from "../../lib/store/store.ts";
import { type NeonBridge, startNeonBridge } from "../bridge/neon.ts";
import { freshDatabase, postgresUrl, skippedWithoutPostgres } from "../support/postgres.ts";
import { type Relay, startRelay } from "../support/relay.ts";
import { random, seed, trials } from "../support/seed.ts";
import type { Handler } from "../support/upstream.ts";
import { answerByDefault, replyText } from "../support/upstream-answers.ts";
import { changedAt, chatOf, claimed, ending, groupOf, newClaim, people } from "./chatting.ts";
import { at } from "./people.ts";
import { type Field, type Storm, storm } from "./storm.ts";

const skipped = skippedWithoutPostgres("chats on Neon and Postgres at the same time");

const seqsOf = async ({ db, messages: table }: Store, chatId: string) =>
  (await db.select({ seq: table.seq }).from(table).where(eq(table.chatId, chatId)).orderBy(table.seq)).map(({ seq }) => seq);
const upTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1);

describe.skipIf(skipped)("Neon", () => {
  let bridge: NeonBridge;
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let store: Store;
  beforeAll(async () => {
    [database, bridge] = await Promise.all([freshDatabase(), startNeonBridge(postgresUrl as string)]);
    store = openNeon(database.url, bridge.endpoint);
    await store.migrate();
  });
  afterEach(() => {
    bridge.requests.length = 0;
  });
  afterAll(async () => {
    await store?.close();
    await bridge?.close();
    await database?.drop();
  });
  /** How many requests a piece of work makes. */
  const requestsOf = async (work: () => Promise<unknown>) => {
    bridge.requests.length = 0;
    await work();
    return bridge.requests.length;
  };

  test("whatever is done to a chat is one request", async () => {
    const { anna, ben } = await people(store, "anna", "ben");
    const group = await groupOf(store, anna, ben);
    const chat = await chatOf(store, anna, { groupId: group.id });
    const claim = newClaim(chat, ben);
    const work: (() => Promise<unknown>)[] = [
      () => claimed(store, claim),
      () => messages.askToStop(store, chat.id, undefined, anna.id),
      () => messages.running(store, chat.id),
      () => messages.end(store, claim, ending(), at(1)),
      () => messages.page(store, chat.id, undefined, 10),
      () => messages.changedSince(store, chat.id, at(), 10),
      () => chats.findForMember(store, chat.id, ben.id),
      () => chatList.listForMember(store, ben.id, { limit: 10, after: at(-1) }),
      () => chats.visibleAmong(store, [{ chatId: chat.id, userId: ben.id }]),
      () => chats.addUsers(store, chat.id, [ben.id], at()),
      () => chats.participants(store, chat.id),
      () => chatOf(store, ben, { groupId: group.id }),
      () => groups.removeMembers(store, group.id, [ben.id], at(2)),
    ];
    for (const it of work) expect([String(it), await requestsOf(it)]).toEqual([String(it), 1]);
    expect(await messages.page(store, chat.id, undefined, 10)).toMatchObject([{ state: "done", stoppedBy: null, seq: 1 }]);
  });

  test("a claim whose answer is lost and that is asked again is one message, and still its own", async () => {
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    for (const number of upTo(5)) {
      const claim = newClaim(chat, anna, { at: at(number) });
      bridge.fail("dropAnswer");
      const requests = await requestsOf(async () => {
        const { message, pairs } = (await twice(() => claims.claim(store, claim))) as claims.Claimed;
        expect(message).toMatchObject({ id: claim.id, requestId: claim.requestId, seq: number, state: "streaming" });
        expect(pairs).toHaveLength(number - 1);
      });
      expect(requests).toBe(2);
      bridge.fail("dropAnswer");
      const ended = await twice(() => messages.end(store, claim, ending({ reply: `${number}` }), at(number)));
      expect(ended).toMatchObject({ state: "done", reply: `${number}` });
    }
    expect(await seqsOf(store, chat.id)).toEqual(upTo(5));
    expect(await changedAt(store, chat)).toEqual(at(5));
  });

  test(`whatever the line loses, numbers have no gap, and each message is its claim's (seed ${seed})`, async () => {
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const chance = random(seed);
    const wanted = Array.from({ length: trials(3) * 20 }, () => newClaim(chat, anna));
    const answers: (claims.Claimed | null)[] = [];
    for (let from = 0; from < wanted.length; from += 20) {
      for (let fault = 0; fault < 8; fault++)
        bridge.fail((["dropAnswer", "refuse", "status500"] as const)[Math.floor(chance() * 3)] ?? "refuse");
      const some = wanted.slice(from, from + 20).map((claim) => twice(() => claims.claim(store, claim)).catch(() => null));
      answers.push(...(await Promise.all(some)));
    }
    const rows = await messages.page(store, chat.id, undefined, 10_000);
    expect(rows.map(({ seq }) => seq).toReversed()).toEqual(upTo(rows.length));
    for (const [i, claim] of wanted.entries()) {
      const row = rows.find(({ id }) => id === claim.id);
      if (answers[i]) expect(answers[i]?.message).toEqual(row);
      if (row) expect(row.requestId).toBe(claim.requestId);
    }
    expect(answers.filter(Boolean).length).toBeGreaterThan(0);
  });
});

describe.skipIf(skipped)("a prompt, over HTTP and Neon", () => {
  let bridge: NeonBridge;
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let relay: Relay;
  let chat: string;
  beforeAll(async () => {
    [database, bridge] = await Promise.all([freshDatabase(), startNeonBridge(postgresUrl as string)]);
    relay = await startRelay({ DB_ADDRESS: database.url, NEON_ENDPOINT: bridge.endpoint });
    const group = await relay.app.call("/group/create", { token: relay.token, body: { name: "G" } });
    const made = await relay.app.call("/chat/create", { token: relay.token, body: { group_id: group.json.id } });
    chat = made.json.id;
  });
  afterEach(() => relay.reset());
  afterAll(async () => {
    await relay?.close();
    await bridge?.close();
    await database?.drop();
  });
  const prompt = (body: object, headers: Record<string, string> = {}) =>
    relay.app.call("/chat/prompt", { token: relay.token, body: { id: chat, prompt: "Hello", ...body }, headers });
  /** Answers as usual, and notes how many requests the store had had by then. */
  const noting =
    (requests: number[]): Handler =>
    (req, res, recorded) => {
      requests.push(bridge.requests.length);
      return answerByDefault(req, res, recorded);
    };

  test.each<[string, object, Record<string, string>]>([
    ["whose reply is waited for", {}, {}],
    ["that others watch", { stream: true }, {}],
    ["whose reply is streamed back", { stream: true }, { accept: "text/event-stream" }],
    ["with a key of its own, and another model", { model: "gpt-4o-mini", context: 50 }, { "idempotency-key": "one" }],
  ])("%s makes two requests to the store before the model is asked: its event, and its claim", async (_, body, headers) => {
    const before: number[] = [];
    relay.upstream.next(noting(before));
    bridge.requests.length = 0;
    const answer = await prompt(body, headers);
    expect(answer.status).toBe(200);
    expect(before).toEqual([2]);
    expect(bridge.requests.every(({ transaction }) => transaction)).toBe(true);
    expect(bridge.requests[1]?.queries.some((query) => query.startsWith('insert into "messages"'))).toBe(true);
  });

  test("off the record makes two as well, and asks no model", async () => {
    bridge.requests.length = 0;
    const answer = await prompt({ otr: true });
    expect([answer.status, answer.json.message.state]).toEqual([200, "off_record"]);
    expect(relay.upstream.requests).toEqual([]);
    expect(bridge.requests[1]?.queries.some((query) => query.startsWith('insert into "messages"'))).toBe(true);
  });

  test("whose claim's answer is lost is one message and one question to the model", async () => {
    let lost = false;
    bridge.onRequest = ({ queries }) => {
      lost ||= queries.some((query) => query.startsWith('insert into "messages"'));
    };
    // The first request is the event's, so that the second is the claim.
    bridge.requests.length = 0;
    bridge.fail({ delayMs: 0 });
    bridge.fail("dropAnswer");
    const answer = await prompt({ message_id: uuidv7() });
    bridge.onRequest = undefined;
    expect([lost, answer.status, answer.json.reply]).toEqual([true, 200, replyText]);
    expect(relay.upstream.requests).toHaveLength(1);
    expect(bridge.requests.slice(1, 3).map(({ queries }) => queries[1]?.slice(0, 22))).toEqual(
      Array(2).fill('insert into "messages"'),
    );
    const { json } = await relay.app.call(`/chat/read?id=${chat}&limit=1000`, { token: relay.token });
    const seqs = json.messages.map(({ seq }: { seq: number }) => seq);
    expect(seqs).toEqual(upTo(seqs.length));
  });
});

describe.skipIf(skipped)("Postgres", () => {
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  /** Two pools, as of two instances. */
  let stores: [Store, Store];
  beforeAll(async () => {
    database = await freshDatabase();
    await withClient(database.url, (client) =>
      // What waits in a circle is told so at once.
      client.query(`alter database ${new URL(database.url).pathname.slice(1)} set deadlock_timeout = '50ms'`),
    );
    stores = [openPostgres(database.url), openPostgres(database.url)];
    await stores[0].migrate();
  });
  afterAll(async () => {
    await Promise.all(stores?.map((store) => store.close()) ?? []);
    await database?.drop();
  });

  test("of two owners who remove each other at the same time exactly one is left, every time", async () => {
    const [store, other] = stores;
    const { anna, ben } = await people(store, "anna", "ben");
    for (let time = 0; time < 50; time++) {
      const group = await groupOf(store, anna);
      await groups.addMembers(store, group.id, [ben.id], "owner", at());
      const [hers, his] = await Promise.all([
        groups.removeMembers(store, group.id, [ben.id], at(1)),
        groups.removeMembers(other, group.id, [anna.id], at(1)),
      ]);
      expect([hers, his].toSorted()).toEqual([false, true]);
      const left = await groups.members(store, group.id);
      expect(left.map(({ id, role }) => [id, role])).toEqual([[hers ? anna.id : ben.id, "owner"]]);
    }
  });

  test("a chat that a member makes while they are removed is handed over or is not made", async () => {
    const [store, other] = stores;
    const { anna, ben } = await people(store, "anna", "ben");
    const ends = new Set<string>();
    for (let time = 0; time < 30; time++) {
      const group = await groupOf(store, anna, ben);
      const makings = [0, 1, 2].map(() =>
        chatOf(other, ben, { groupId: group.id }).then(
          () => "made",
          (error) => String(error.code),
        ),
      );
      const [removed, ...made] = await Promise.all([groups.removeMembers(store, group.id, [ben.id], at(1)), ...makings]);
      expect(removed).toBe(true);
      for (const it of made) ends.add(it);
      const owners = await store.db
        .select({ ownerId: store.chats.ownerId })
        .from(store.chats)
        .where(eq(store.chats.groupId, group.id));
      expect(owners).toEqual(made.filter((it) => it === "made").map(() => ({ ownerId: anna.id })));
    }
    expect([...ends].filter((it) => it !== "made" && it !== "not_found")).toEqual([]);
  });

  test("a claim that is repeated while its reply ends waits for it, and not in a circle", async () => {
    const [store, other] = stores;
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    for (let time = 0; time < 40; time++) {
      const claim = newClaim(chat, anna);
      await claimed(store, claim);
      const repeats = [0, 1, 2, 3].map((i) => claimed(i % 2 ? store : other, { ...claim, requestId: uuidv7() }));
      const [ended, ...answers] = await Promise.all([messages.end(other, claim, ending(), at(1)), ...repeats]);
      expect(ended).toMatchObject({ state: "done", requestId: claim.requestId });
      for (const { message } of answers) expect(message.requestId).toBe(claim.requestId);
    }
    expect(await seqsOf(store, chat.id)).toEqual(upTo(40));
  });

  test("people who are added to a chat by several at the same time, in any order, are added", async () => {
    const [store, other] = stores;
    const crowd = Object.values(await people(store, ...upTo(20).map((i) => `c${i}`)));
    const [owner] = crowd as [(typeof crowd)[0]];
    const ids = crowd.slice(1).map(({ id }) => id);
    for (let time = 0; time < 10; time++) {
      const chat = await chatOf(store, owner);
      const group = await groupOf(store, owner);
      const add = (list: string[], it: Store) =>
        Promise.all([chats.addUsers(it, chat.id, list, at()), groups.addMembers(it, group.id, list, "owner", at())]);
      await Promise.all([add(ids, store), add(ids.toReversed(), other), add(ids, other), add(ids.toReversed(), store)]);
      expect(await chats.users(store, chat.id)).toHaveLength(19);
      expect(await groups.members(store, group.id)).toHaveLength(20);
    }
  });

  test(`whatever is done to a chat at the same time, nothing waits in a circle, and every number is given once (seed ${seed})`, {
    timeout: 30_000 + trials(1) * 20_000,
  }, async () => {
    const [store, other] = stores;
    for (let round = 0; round < trials(1); round++) {
      const field = await newField(store);
      const options = (from: number) => ({ operations: 500, atOnce: 10, seed: from + round });
      const made = await Promise.all([storm(store, field, options(seed)), storm(other, field, options(seed + 1_000))]);
      await expectOrder(store, field, made);
    }
  });

  test(`a chat, or its group, that is deleted while all that goes on takes everything with it (seed ${seed})`, {
    timeout: 30_000 + trials(6) * 2_000,
  }, async () => {
    const [store, other] = stores;
    for (let round = 0; round < trials(6); round++) {
      const field = await newField(store);
      const going = [store, other].map((it, i) => storm(it, field, { operations: 80, atOnce: 8, seed: seed + round * 2 + i }));
      // Whoever is an owner by now may delete it.
      const members = await groups.members(store, field.groupId);
      const owner = members.find(({ role }) => role === "owner")?.id ?? "";
      const [chat] = await store.db.select().from(store.chats).where(eq(store.chats.id, field.chatId));
      if (round % 2) await groups.remove(other, field.groupId, owner);
      else await chats.remove(other, field.chatId, chat?.ownerId ?? "");
      const made = await Promise.all(going);
      expect(made.flatMap(({ failures }) => failures)).toEqual([]);
      const rows = async (table: Store["messages"] | Store["chatUsers"]) =>
        store.db.select().from(table).where(eq(table.chatId, field.chatId));
      const [left] = await store.db.select().from(store.chats).where(eq(store.chats.id, field.chatId));
      if (left) expect(await chats.remove(store, left.id, left.ownerId)).not.toBeNull();
      expect([await rows(store.messages), await rows(store.chatUsers)]).toEqual([[], []]);
    }
  });
});

describe("SQLite", () => {
  test(`two processes do whatever is done to a chat, and every number is given once (seed ${seed})`, {
    timeout: 60_000,
  }, async () => {
    const folder = await mkdtemp(join(tmpdir(), "proxy-gpt-storm-"));
    const entry = join(folder, "dist/storm/storm-process.mjs");
    await build({
      entryPoints: ["test/store/storm-process.ts"],
      outfile: entry,
      bundle: true,
      platform: "node",
      format: "esm",
      external: ["libsql"],
      logLevel: "error",
    });
    await symlink(resolve("node_modules"), join(folder, "node_modules"));
    const file = join(folder, "proxy.db");
    const store = openSqlite(file);
    await store.migrate();
    const field = await newField(store);

    const children = [seed, seed + 1_000].map((from) =>
      fork(entry, [file, String(from), "400", JSON.stringify(field)], { stdio: ["ignore", "ignore", "inherit", "ipc"] }),
    );
    await Promise.all(children.map((child) => once(child, "message")));
    const made = children.map((child) => once(child, "message") as Promise<[Storm]>);
    for (const child of children) child.send("go");
    const ended = Promise.all(children.map((child) => once(child, "exit")));
    const results = (await Promise.all(made)).map(([result]) => result);
    expect((await ended).map(([code]) => code)).toEqual([0, 0]);
    await expectOrder(store, field, results);
    await store.close();
    await rm(folder, { recursive: true });
  });
});

async function newField(store: Store): Promise<Field> {
  const { owner, ...others } = await people(store, "owner", "a", "b", "c", "d", "e");
  const group = await groupOf(store, owner, others.a, others.b);
  const chat = await chatOf(store, owner, { groupId: group.id });
  return {
    chatId: chat.id,
    groupId: group.id,
    ownerId: owner.id,
    userIds: Object.values(others).map(({ id }) => id),
    messageIds: Array.from({ length: 12 }, () => uuidv7()),
  };
}

/** Nothing failed, every number was given once and none left out, and the chat's owner is one of the group's members. */
async function expectOrder(store: Store, { chatId, groupId }: Field, storms: readonly Storm[]): Promise<void> {
  expect(storms.flatMap(({ failures }) => failures)).toEqual([]);
  const given = storms.flatMap((it) => it.given).toSorted((a, b) => a - b);
  expect(given.length).toBeGreaterThan(10);
  expect(given).toEqual(upTo(given.length));
  const [chat] = await store.db.select().from(store.chats).where(eq(store.chats.id, chatId));
  expect(chat?.lastSeq).toBe(given.length);
  const left = await seqsOf(store, chatId);
  expect(left.filter((seq) => seq > given.length)).toEqual([]);
  const members = await groups.members(store, groupId);
  expect(members.some(({ role }) => role === "owner")).toBe(true);
  expect(members.map(({ id }) => id)).toContain(chat?.ownerId);
}

async function withClient(url: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
