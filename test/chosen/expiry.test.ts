import { randomUUID } from "node:crypto";
import { eq, inArray } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { search } from "../../lib/repo/events.ts";
import { answerEach, type Chat, type Chats, modelFor, person, startChats, type Viewer, watchStream } from "../chat/support.ts";
import { type Client, fetchStreaming, wsThatResumes, wsWith } from "../chat-clients/clients.ts";
import { saidBefore } from "../store/chatting.ts";
import { expectRefusal } from "../support/answers.ts";
import { buildCommand, type Command } from "../support/command.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { lastTurns, must } from "./asker.ts";
import { ownChat } from "./own.ts";
import { ADDRESS, PNG } from "./pictures.ts";

const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;
/** A database of Redis that no other file uses. */
const DATABASE = 3;

/** The product with messages that expire after an hour, and a clock in the test's hand. */
type Expiring = Chats & {
  /** Lets time go by. */
  pass(ms: number): void;
  now(): number;
};

/** It lives until the test ends. */
async function start(env: Record<string, string> = { EXPIRE_HOURS: "1" }, now = Date.now()): Promise<Expiring> {
  let nowMs = now;
  const chats = await startChats(env, { now: () => nowMs });
  onTestFinished(() => chats.close());
  answerEach(chats.upstream, (prompt) => `reply to ${textOf(prompt)}`);
  const pass = (ms: number) => {
    nowMs += ms;
  };
  return { ...chats, pass, now: () => nowMs };
}

/** What a prompt says, also where an image belongs to it. */
const textOf = (content: unknown): string => (Array.isArray(content) ? content[0].text : String(content));
const contents = (turns: readonly { content: unknown }[]) => turns.map(({ content }) => content);
const pair = (prompt: string) => [prompt, `reply to ${prompt}`];
/** The ids of these messages that are in the store, whatever has expired. */
async function stored({ app }: Chats, ids: readonly string[]): Promise<string[]> {
  const { db, messages } = app.deps.store;
  const rows = await db
    .select({ id: messages.id })
    .from(messages)
    .where(inArray(messages.id, [...ids]));
  return rows.map(({ id }) => id);
}
async function prompted(chat: Chat, fields: Parameters<Chat["prompt"]>[0], by = chat.owner) {
  return (await must(chat.prompt(fields, by))).message as { id: string; seq: number; created_at: string };
}

describe("a message is there until the millisecond before its instant, and nowhere from the instant on:", () => {
  /** What each way to a chat shows of it, in words. */
  const WAYS: Record<string, (chat: Chat, message: Shown) => Promise<unknown>> = {
    "the conversation": async (chat) => {
      const { status, json } = await chat.call("/demo/chat");
      return status === 200 ? contents(json) : status;
    },
    "the messages of the chat": async (chat) => (await chat.read()).map(({ prompt }) => prompt),
    "its page before": async (chat) =>
      contents((await must(chat.call("/chat/read", { id: chat.id, cursor: "2" }))).messages.map(said)),
    "the list of chats": async (chat, { since }) => {
      const { chats } = await must(chat.call("/chat/index", { after: since }));
      return [chats.length, chats[0]?.last_message?.prompt ?? null, chats[0]?.unread];
    },
    "the image": async (chat, { pictured }) => {
      const { status, json } = await chat.call("/chat/message/image", { id: pictured });
      return status === 200 ? json.url : status;
    },
    "a stop of it": async (chat, { plain }) => (await chat.call("/chat/stop", { id: plain })).status,
  };
  type Shown = { plain: string; pictured: string; since: string };
  const said = ({ prompt }: { prompt: string }) => ({ content: prompt });

  test("in the conversation, the messages, the list, by its image, and to be stopped", async () => {
    const chats = await start();
    const other = await person(chats.app.deps.store);
    const chat = await ownChat(chats.app, "demo");
    await must(chat.call("/chat/user/add", { chat_id: chat.id, user_ids: [other.id] }));
    const since = new Date(chats.now() - 1).toISOString();
    chats.pass(1);
    const plain = (await prompted(chat, "one", other)).id;
    const pictured = randomUUID();
    await must(chat.call("/demo/img", { content: "two", url: PNG, message_id: pictured }));
    await prompted(chat, { prompt: "three", otr: true }, other);
    const seen = async () => {
      const shown: Record<string, unknown> = {};
      for (const [way, show] of Object.entries(WAYS)) shown[way] = await show(chat, { plain, pictured, since });
      return shown;
    };
    const everything = {
      "the conversation": [...pair("one"), ...pair("two"), "three"],
      "the messages of the chat": ["one", "two", "three"],
      "its page before": ["one"],
      "the list of chats": [1, "three", 2],
      "the image": PNG,
      "a stop of it": 200,
    };
    expect(await seen()).toEqual(everything);
    chats.pass(HOUR_MS - 1);
    expect(await seen()).toEqual(everything);
    chats.pass(1);
    expect(await seen()).toEqual({
      "the conversation": 404,
      "the messages of the chat": [],
      "its page before": [],
      "the list of chats": [1, null, 0],
      "the image": 404,
      "a stop of it": 404,
    });
    // Nothing of that has deleted it: it is not shown although it is there.
    expect(await stored(chats, [plain, pictured])).toHaveLength(2);
    expectRefusal(await chat.call("/demo/chat"), 404, "not_found");
  });

  test("to be deleted, which says the same as of a message that never was", async () => {
    const chats = await start();
    const chat = await chats.chat();
    const [first, second] = [await prompted(chat, "first"), await prompted(chat, "second")];
    const remove = (id: string) => chat.call("/chat/message/delete", { id });
    chats.pass(HOUR_MS - 1);
    expect((await remove(first.id)).status).toBe(200);
    chats.pass(1);
    for (const id of [second.id, randomUUID()]) {
      expectRefusal(await remove(id), 404, "not_found");
      expectRefusal(await chat.call("/chat/message/image", { id }), 404, "not_found");
      expectRefusal(await chat.call("/chat/stop", { id }), 404, "not_found");
    }
    expect(await stored(chats, [second.id])).toEqual([second.id]);
  });

  test("in the context of the next prompt, with its image, and in no other chat's", async () => {
    const chats = await start();
    const chat = await ownChat(chats.app, "demo");
    await prompted(chat, "one");
    await must(chat.call("/demo/img", { content: "two", url: PNG }));
    await must(chat.call("/demo/img", { content: "three", url: ADDRESS }));
    chats.pass(HOUR_MS - 1);
    await prompted(chat, "four");
    const picture = (text: string, url: string) => [
      { type: "text", text },
      { type: "image_url", image_url: { url } },
    ];
    const reply = (body: readonly { content: unknown }[]) => contents(body).filter((_, i) => i % 2 === 0);
    expect(reply(await lastTurns(chats))).toEqual(["one", picture("two", PNG), picture("three", ADDRESS), "four"]);
    chats.pass(1);
    await prompted(chat, "five");
    expect(contents(await lastTurns(chats))).toEqual([...pair("four"), "five"]);
    await prompted(chat, { prompt: "six", context: 50 });
    expect(contents(await lastTurns(chats))).toEqual([...pair("four"), ...pair("five"), "six"]);
  });
});

test("of a chat that is half expired exactly the younger half remains, and numbers go on", async () => {
  const chats = await start();
  const chat = await ownChat(chats.app, "demo");
  const other = await person(chats.app.deps.store);
  await must(chat.call("/chat/user/add", { chat_id: chat.id, user_ids: [other.id] }));
  const since = new Date(chats.now() - 1).toISOString();
  for (let i = 1; i <= 6; i++) {
    await prompted(chat, `prompt ${i}`, other);
    chats.pass(10 * MINUTE_MS);
  }
  // An hour after the first; two more go with the next twenty minutes.
  chats.pass(20 * MINUTE_MS);
  const younger = ["prompt 4", "prompt 5", "prompt 6"];
  expect(contents((await chat.call("/demo/chat")).json)).toEqual(younger.flatMap(pair));
  expect((await chat.read()).map(({ prompt, seq }) => [prompt, seq])).toEqual(younger.map((it, i) => [it, i + 4]));
  const pages: string[][] = [];
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const page = await must(chat.call("/chat/read", { id: chat.id, limit: 2, ...(cursor && { cursor }) }));
    pages.push(page.messages.map(({ prompt }: { prompt: string }) => prompt));
    cursor = page.next;
  }
  expect(pages).toEqual([["prompt 5", "prompt 6"], ["prompt 4"]]);
  const { chats: listed } = await must(chat.call("/chat/index", { after: since }));
  expect(listed).toMatchObject([{ id: chat.id, last_message: { prompt: "prompt 6", seq: 6 }, unread: 3 }]);
  expect((await prompted(chat, "and now?")).seq).toBe(7);
  expect(contents(await lastTurns(chats))).toEqual([...younger.flatMap(pair), "and now?"]);
});

describe("a prompt that is repeated", () => {
  const fields = (prompt: string, message_id: string) => ({ prompt, message_id });

  test("with the id of one that has expired is a new one, and may say something else", async () => {
    const chats = await start();
    const chat = await chats.chat();
    const id = randomUUID();
    const first = await prompted(chat, fields("hello", id));
    chats.pass(HOUR_MS - 1);
    expect(await prompted(chat, fields("hello", id))).toEqual(first);
    expectRefusal(await chat.prompt(fields("another", id)), 422, "idempotency_mismatch");
    expect(chats.upstream.requests).toHaveLength(1);

    chats.pass(1);
    const second = await prompted(chat, fields("another", id));
    expect(second).toMatchObject({ id, seq: 2, prompt: "another", reply: "reply to another" });
    expect(second.created_at).toBe(new Date(chats.now()).toISOString());
    expect(chats.upstream.requests).toHaveLength(2);
    expect(contents(await lastTurns(chats))).toEqual(["another"]);
    expect((await chat.read()).map(({ prompt }) => prompt)).toEqual(["another"]);
    // And from then on it is that one, for as long as others.
    chats.pass(HOUR_MS - 1);
    expect(await prompted(chat, fields("another", id))).toEqual(second);
    expect(chats.upstream.requests).toHaveLength(2);
  });

  test("with an Idempotency-Key is a new one after that time, for another user's id too", async () => {
    const chats = await start();
    const [chat, others] = [await chats.chat(), await chats.chat()];
    const key = { "idempotency-key": "key 1" };
    const ask = async () => (await must(chat.prompt("hello", chat.owner, key))).message;
    const first = await ask();
    expect(await ask()).toEqual(first);
    expectRefusal(await others.prompt(fields("mine", first.id)), 409, "message_id_taken");
    chats.pass(HOUR_MS);
    expect(await ask()).toMatchObject({ id: first.id, seq: 2 });
    expectRefusal(await others.prompt(fields("mine", first.id)), 409, "message_id_taken");
    chats.pass(HOUR_MS);
    expect(await prompted(others, fields("mine", first.id))).toMatchObject({ id: first.id, chat_id: others.id });
    expect(await chat.read()).toEqual([]);
  });

  test("by many at the same time is one new one, and everybody gets its reply", async () => {
    const chats = await start();
    const chat = await chats.chat();
    const id = randomUUID();
    await prompted(chat, fields("hello", id));
    chats.pass(HOUR_MS);
    const answers = await Promise.all(Array.from({ length: 8 }, () => chat.prompt(fields("hello", id))));
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
    expect(answers.map(({ json }) => json.message)).toEqual(answers.map(() => expect.objectContaining({ id, seq: 2 })));
    expect(chats.upstream.requests).toHaveLength(2);
  });

  test("is heard by who watched the one that has expired", async () => {
    const chats = await start();
    const chat = await chats.chat();
    const viewer = await chat.watch();
    const id = randomUUID();
    await prompted(chat, fields("old words", id));
    await viewer.ended("old words");
    chats.pass(HOUR_MS);
    await prompted(chat, fields("new words", id));
    await prompted(chat, "behind it");
    await viewer.ended("behind it");
    const heard = viewer.heard.filter(({ data }) => JSON.stringify(data).includes('"reply":"reply to new words"'));
    expect(heard.map(({ data }) => [data.partial, (data.message as { id: string }).id])).toEqual([[false, id]]);
    viewer.leave();
  });
});

describe("a stream", () => {
  /** Someone who watched from the beginning, and where they were before anything was said that is to expire. */
  async function told() {
    const chats = await start();
    const chat = await chats.chat();
    const watching = await chat.watch();
    await prompted(chat, "before all");
    await watching.ended("before all");
    const place = String(watching.heard.findLast(({ id }) => id !== null)?.id);
    const half = modelFor(chats.upstream, "old and stopped");
    const asked = chat.prompt({ prompt: "old and stopped", stream: true });
    await half.say("old and half");
    await watching.partly("old and stopped", "old and half");
    await must(chat.call("/chat/stop", { id: chat.id }));
    await asked;
    const old = [await prompted(chat, { prompt: "old", stream: true }), await prompted(chat, { prompt: "old aside", otr: true })];
    const [stopped] = (await chat.rows()).filter(({ prompt }) => prompt === "old and stopped");
    chats.pass(30 * MINUTE_MS);
    const young = await prompted(chat, { prompt: "young", stream: true });
    await watching.ended("young");
    watching.leave();
    return { chats, chat, place, young, oldIds: [...old.map(({ id }) => id), String(stopped?.id)] };
  }
  const OLD = ["old and stopped", "old", "old aside"];

  const ways: [way: string, client: Client][] = [
    ["after= in its address", fetchStreaming],
    ["resume on a WebSocket", wsThatResumes],
    ["after= of a WebSocket", wsWith("bearer")],
  ];
  test.each(ways)(
    "that goes on from an old place by %s shows nothing that has expired, and what is younger",
    async (_, client) => {
      const { chats, chat, place, oldIds } = await told();
      const from = async () => {
        const watching = await client({ url: chats.app.url, chatId: chat.id, person: chat.owner, after: place });
        await watching.heard.ended("young");
        watching.leave();
        return watching.heard;
      };
      const whole = await from();
      expect(OLD.map((prompt) => whole.of(prompt)?.ends)).toEqual([1, 1, 1]);
      expect(whole.events).toEqual(["stopped"]);
      chats.pass(30 * MINUTE_MS);
      const { frames, messages, events } = await from();
      expect([...messages.values()].map(({ prompt, whole }) => [prompt, whole])).toEqual([["young", "reply to young"]]);
      expect(JSON.stringify(frames)).not.toContain("old");
      for (const id of oldIds) expect(JSON.stringify(frames)).not.toContain(id);
      expect(events).toEqual([]);
    },
  );

  test("that goes on by Last-Event-ID shows nothing that has expired, and what is younger", async () => {
    const { chats, chat, place, oldIds } = await told();
    const from = async () => {
      const headers = { "last-event-id": place };
      const viewer = await watchStream(`${chats.app.url}/chat/stream?id=${chat.id}`, chat.owner.token, headers);
      await viewer.ended("young");
      viewer.leave();
      return viewer;
    };
    const prompts = ({ messages }: Viewer) => [...messages.values()].map(({ prompt }) => prompt);
    expect(prompts(await from())).toEqual([...OLD, "young"]);
    chats.pass(30 * MINUTE_MS);
    const viewer = await from();
    expect(prompts(viewer)).toEqual(["young"]);
    for (const it of ["old", ...oldIds]) expect(JSON.stringify(viewer.heard)).not.toContain(it);
  });

  test.each(ways)("that has lost its place is told the younger messages alone, by %s", async (_, client) => {
    const { chats, chat, oldIds } = await told();
    const from = async () => {
      const watching = await client({ url: chats.app.url, chatId: chat.id, person: chat.owner, after: "1-1" });
      await watching.heard.ended("young");
      watching.leave();
      expect(watching.heard.events).toEqual(["reset"]);
      return watching.heard;
    };
    const before = await from();
    expect([...before.messages.values()].map(({ prompt }) => prompt)).toEqual(["before all", ...OLD, "young"]);
    chats.pass(30 * MINUTE_MS);
    const { frames, messages } = await from();
    expect([...messages.values()].map(({ prompt }) => prompt)).toEqual(["young"]);
    for (const it of ["old", "before all", ...oldIds]) expect(JSON.stringify(frames)).not.toContain(it);
  });
  test("that comes while a reply is being made is not told of it once its prompt has expired", async () => {
    const chats = await start();
    const chat = await chats.chat();
    const [slow, young] = [modelFor(chats.upstream, "slow"), modelFor(chats.upstream, "young")];
    const first = await chat.watch();
    const asked = [chat.prompt({ prompt: "slow", stream: true })];
    await slow.say("slowly");
    await first.partly("slow", "slowly");
    chats.pass(HOUR_MS);
    asked.push(chat.prompt({ prompt: "young", stream: true }));
    await young.say("youngly");
    await first.partly("young", "youngly");
    const second = await chat.watch();
    await second.partly("young", "youngly");
    expect([...second.messages.values()].map(({ prompt }) => prompt)).toEqual(["young"]);
    for (const model of [slow, young]) model.end();
    await Promise.all(asked);
    await second.ended("young");
    expect(JSON.stringify(second.heard)).not.toContain("slow");
    for (const viewer of [first, second]) viewer.leave();
    expect((await chat.read()).map(({ prompt }) => prompt)).toEqual(["young"]);
  });
});

describe.skipIf(skippedWithoutRedis("expiry on two instances"))("another instance", () => {
  test("that reads the log from its beginning shows nothing that has expired, and what is younger", async () => {
    const env = { EXPIRE_HOURS: "1", REDIS_ADDRESS: `${redisUrl}/${DATABASE}` };
    const one = await start(env);
    const chat = await one.chat();
    const watching = await chat.watch();
    await prompted(chat, "before all");
    await watching.ended("before all");
    const place = String(watching.heard.findLast(({ id }) => id !== null)?.id);
    await prompted(chat, { prompt: "old", stream: true });
    one.pass(30 * MINUTE_MS);
    await prompted(chat, { prompt: "young", stream: true });
    await watching.ended("young");
    watching.leave();
    for (const [lateMs, expected] of [
      [0, ["old", "young"]],
      [30 * MINUTE_MS, ["young"]],
    ] as const) {
      const two = await start({ ...env, DB_ADDRESS: `file:${one.app.file}` }, one.now() + lateMs);
      const url = `${two.app.url}/chat/stream?id=${chat.id}&after=${place}`;
      const viewer = await watchStream(url, chat.owner.token);
      await viewer.ended("young");
      expect([...viewer.messages.values()].map(({ prompt }) => prompt)).toEqual(expected);
      expect(viewer.named("reset")).toEqual([]);
      viewer.leave();
    }
  });
});

describe("what has expired is deleted", () => {
  test("with the next reply in any chat, a hundred at a time, and no more than has expired", async () => {
    const chats = await start();
    const { store } = chats.app.deps;
    const [chat, other] = [await chats.chat(), await chats.chat()];
    const old = await saidBefore(store, chat, chat.owner, 150, new Date(chats.now() - HOUR_MS));
    const picture = await prompted(other, "with a picture");
    await store.db.insert(store.images).values({ messageId: picture.id, url: PNG });
    // The reply to that took the first hundred, the oldest of them.
    expect((await stored(chats, old)).toSorted()).toEqual(old.slice(0, 50).toSorted());
    await prompted(other, { prompt: "off the record", otr: true });
    expect(await stored(chats, old)).toHaveLength(50);
    await prompted(other, "another");
    expect(await stored(chats, old)).toEqual([]);
    expect(await stored(chats, [picture.id])).toEqual([picture.id]);

    chats.pass(HOUR_MS - 1);
    await prompted(other, "in time");
    expect(await other.rows()).toHaveLength(4);
    chats.pass(1);
    await prompted(other, "an hour later");
    expect((await other.rows()).map(({ prompt }) => prompt)).toEqual(["in time", "an hour later"]);
    expect(await store.db.select().from(store.images)).toEqual([]);
  });

  test("also when that reply fails", async () => {
    const chats = await start();
    const chat = await chats.chat();
    const old = await saidBefore(chats.app.deps.store, chat, chat.owner, 3, new Date(chats.now() - HOUR_MS));
    chats.upstream.next((_, res) => void res.writeHead(400, { "content-type": "application/json" }).end("{}"));
    expect((await chat.prompt("refused")).status).toBe(502);
    expect(await stored(chats, old)).toEqual([]);
  });

  test("and the audit log keeps who said what", async () => {
    const chats = await start();
    const chat = await chats.chat();
    const answer = await chat.prompt("remember me");
    const before = await chats.eventOf(answer);
    chats.pass(HOUR_MS);
    await prompted(chat, "later");
    expect(await stored(chats, [answer.json.message.id])).toEqual([]);
    const after = await chats.eventOf(answer);
    expect(after).toEqual(before);
    expect(after).toMatchObject({ userId: chat.owner.id, chatId: chat.id, status: 200 });
    expect(after.requestBody).toContain("remember me");
    expect(after.responseBody).toContain("reply to remember me");
    expect((await search(chats.app.deps.store, { chat: chat.id, text: "remember me", limit: 9 })).length).toBeGreaterThan(0);
  });
});

describe.each([
  ["is not set", {}],
  ["is 0", { EXPIRE_HOURS: "0" }],
] as const)("where EXPIRE_HOURS %s", (_, env) => {
  test("a message of long ago is shown, goes with the next prompt, and is deleted by nothing", async () => {
    const chats = await start(env);
    const chat = await ownChat(chats.app, "demo");
    const { id } = await prompted(chat, "old");
    const { db, messages } = chats.app.deps.store;
    const longAgo = new Date("2001-09-09T01:46:40Z");
    await db.update(messages).set({ createdAt: longAgo, updatedAt: longAgo }).where(eq(messages.id, id));
    expect(contents((await chat.call("/demo/chat")).json)).toEqual(pair("old"));
    await prompted(chat, "new");
    expect(contents(await lastTurns(chats))).toEqual([...pair("old"), "new"]);
    expect((await chat.read()).map((it) => [it.prompt, it.created_at])).toEqual([
      ["old", longAgo.toISOString()],
      ["new", new Date(chats.now()).toISOString()],
    ]);
    expectRefusal(await chat.prompt({ prompt: "another", message_id: id }), 422, "idempotency_mismatch");
  });
});

describe("the administrator's prune", { timeout: 60_000 }, () => {
  let command: Command;
  beforeAll(async () => {
    command = await buildCommand({});
  });
  afterAll(() => command?.remove());
  const prune = ({ app }: Chats, env: Record<string, string>, ...words: string[]) =>
    command.run(["admin", "prune", ...words], { env: { DB_ADDRESS: `file:${app.file}`, ...env } });

  test("deletes what has expired, however much it is, says how much, and leaves the rest and the audit log", async () => {
    const chats = await start({});
    const { store } = chats.app.deps;
    const [chat, other] = [await chats.chat(), await chats.chat()];
    const old: string[] = [];
    for (let i = 0; i < 3; i++) {
      const hundreds = await chats.chat();
      old.push(...(await saidBefore(store, hundreds, hundreds.owner, 400, new Date(chats.now() - HOUR_MS))));
    }
    const younger = await saidBefore(store, other, other.owner, 5, new Date(chats.now() - HOUR_MS / 2));
    const { id } = await prompted(chat, "now");
    const events = await store.db.$count(store.events);

    const none = { events: 0, messages: 0, sessions: 0, tickets: 0, throttles: 0 };
    for (const env of [{}, { EXPIRE_HOURS: "0" }, { EXPIRE_HOURS: "2" }]) expect((await prune(chats, env)).json).toEqual([none]);
    expect(await stored(chats, old)).toHaveLength(1_200);
    expect(await prune(chats, { EXPIRE_HOURS: "1" })).toMatchObject({ code: 0, json: [{ ...none, messages: 1_200 }] });
    expect(await stored(chats, old)).toEqual([]);
    expect((await stored(chats, [...younger, id])).length).toBe(6);
    expect((await prune(chats, { EXPIRE_HOURS: "1" })).json).toEqual([none]);
    expect(await store.db.$count(store.events)).toBe(events);
  });

  test("has a column for it in its table, and a field in CSV", async () => {
    const chats = await start({});
    const chat = await chats.chat();
    const old = new Date(chats.now() - 2 * HOUR_MS);
    await saidBefore(chats.app.deps.store, chat, chat.owner, 7, old);
    const shown = await prune(chats, { EXPIRE_HOURS: "1" }, "--format", "table");
    expect(shown.code).toBe(0);
    const [titles = "", counts = ""] = shown.out.split("\n");
    const columns = titles.trim().split(/ {2,}/);
    expect(columns).toContain("EXPIRED MESSAGES");
    expect(counts.trim().split(/ +/)[columns.indexOf("EXPIRED MESSAGES")]).toBe("7");
    const csv = await prune(chats, { EXPIRE_HOURS: "1" }, "--format", "csv");
    expect(csv.out).toBe("events,messages,sessions,tickets,throttles\r\n0,0,0,0,0\r\n");
  });
});
