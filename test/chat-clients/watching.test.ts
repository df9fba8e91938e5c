import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Chat, type Chats, modelFor, startChats } from "../chat/support.ts";
import { random, seed } from "../support/seed.ts";
import { clients, hasCurl, type Place, readEvents, type Watching } from "./clients.ts";
import { Hearing, trickyPieces } from "./hearing.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

/** Somebody asks, and gets the whole reply; `pieces`: how it came, where it came in pieces. */
type Asked = { reply: string; pieces?: string[] };

const openai = ({ id, owner }: Chat) =>
  new OpenAI({ baseURL: `${chats.app.url}/chat/${id}/v1`, apiKey: owner.token, maxRetries: 0 });

/** Every way to ask so that those who watch hear the reply as it comes. */
const ways: [what: string, ask: (chat: Chat, prompt: string) => Promise<Asked>][] = [
  ["chat/prompt, asked to stream", async (chat, prompt) => ({ reply: (await chat.prompt({ prompt, stream: true })).json.reply })],
  [
    "chat/prompt, answered by events",
    async ({ id, owner }, prompt) => {
      const headers = { authorization: `Bearer ${owner.token}`, accept: "text/event-stream", "content-type": "application/json" };
      const body = JSON.stringify({ id, prompt });
      const response = await fetch(`${chats.app.url}/chat/prompt`, { method: "POST", headers, body });
      expect(response.headers.get("content-type")).toBe("text/event-stream");
      const heard = new Hearing();
      await readEvents(response, heard);
      const { whole, ...told } = heard.of(prompt) ?? { whole: null };
      expect(told).toMatchObject({ begun: 1, ends: 1, streamed: whole });
      expect(heard.events).toEqual([]);
      return { reply: String(whole), pieces: heard.frames.slice(1, -1).map(({ data }) => (data.message as Asked).reply) };
    },
  ],
  [
    "the openai client, streaming",
    async (chat, prompt) => {
      const messages = [{ role: "user" as const, content: prompt }];
      const stream = await openai(chat).chat.completions.create({ model: "gpt-4o", messages, stream: true });
      const pieces: string[] = [];
      for await (const { choices } of stream) pieces.push(choices[0]?.delta.content ?? "");
      return { reply: pieces.join(""), pieces };
    },
  ],
];

describe(`several hundred pieces (SEED=${seed})`, () => {
  test.skipIf(!hasCurl)("curl is among those who watch", () => {
    expect(clients.map(([name]) => name)).toContain("curl -N with a bearer");
  });

  test.each(ways)("by %s reach every client whole, whenever it came", async (what, ask) => {
    const chat = await chats.chat(1);
    const place: Place = { url: chats.app.url, chatId: chat.id, person: chat.others[0] as Chat["owner"] };
    const watchAll = (more: Partial<Place> = {}) =>
      Promise.all(clients.map(async ([name, client]) => ({ name, ...(await client({ ...place, ...more })) })));
    const leave = (all: Watching[]) => Promise.all(all.map((it) => it.leave()));
    const prompt = `tell me by ${what}`;
    const pieces = trickyPieces(random(seed), 400);
    const text = pieces.join("");
    const model = modelFor(chats.upstream, prompt);

    const before = await watchAll();
    const asked = ask(chat, prompt);
    let said = 0;
    const say = async (upTo: number) => {
      for (; said < upTo; said++) await model.say(pieces[said] as string);
      // A character whose second half is to come is not heard yet.
      const characters = pieces.slice(0, said).join("").length - 1;
      await Promise.all(before.map(({ heard }) => heard.partly(prompt, characters)));
    };
    for (const upTo of [1, 40, 80, 120]) await say(upTo);
    const during = await watchAll();
    for (const upTo of [160, 240, 320, pieces.length]) await say(upTo);
    model.end();

    const { reply, pieces: got } = await asked;
    expect(reply).toBe(text);
    if (got) expect(got.length).toBeGreaterThan(250);
    const [stored] = await chat.rows();
    expect(stored).toMatchObject({ reply: text, state: "done" });
    expect((await chat.read()).map((it) => it.reply)).toEqual([text]);

    const first = before[0]?.heard.frames.find(({ event }) => event === null)?.id;
    if (first == null) throw new Error("the first frame has no id");
    const whole = { begun: 1, streamed: text, whole: text, ends: 1, id: stored?.id };
    const after = await watchAll();
    const again = await watchAll({ after: first });
    for (const { name, heard } of [...before, ...during])
      expect({ name, ...(await heard.ended(prompt)) }).toMatchObject({ name, ...whole });
    // The first frame is seen already, so what is behind it begins with text.
    for (const { name, heard } of again)
      expect({ name, ...(await heard.ended(prompt)) }).toMatchObject({ name, ...whole, begun: 0 });
    for (const { heard } of before) expect(heard.messages.get(stored?.id ?? "")?.deltas).toBeGreaterThan(6);

    const next = modelFor(chats.upstream, "next");
    const asking = ask(chat, "next");
    await next.say("short");
    next.end();
    expect((await asking).reply).toBe("short");
    for (const { name, heard } of [...before, ...during, ...after, ...again]) {
      expect({ name, ...(await heard.ended("next")) }).toMatchObject({
        name,
        begun: 1,
        streamed: "short",
        whole: "short",
        ends: 1,
      });
      expect({ name, events: heard.events }).toEqual({ name, events: [] });
    }
    // Who came when all was said heard nothing of it.
    for (const { heard } of after) expect([...heard.messages.values()].map((it) => it.prompt)).toEqual(["next"]);
    for (const { heard } of [...before, ...during, ...again]) expect(heard.messages.size).toBe(2);
    await leave([...before, ...during, ...after, ...again]);
  });
});

test("a reply that is stopped, and one that fails, are told to every client by name, with what there is", async () => {
  const chat = await chats.chat();
  const place: Place = { url: chats.app.url, chatId: chat.id, person: chat.owner };
  const all = await Promise.all(clients.map(async ([name, client]) => ({ name, ...(await client(place)) })));
  const [stopped, failed] = [modelFor(chats.upstream, "stopped"), modelFor(chats.upstream, "failed")];
  const asked = [chat.prompt({ prompt: "stopped", stream: true })];
  await stopped.say("half a");
  await Promise.all(all.map(({ heard }) => heard.partly("stopped", 6)));
  expect((await chat.call("/chat/stop", { id: chat.id })).status).toBe(200);
  for (const { heard } of all) await heard.ended("stopped");
  asked.push(chat.prompt({ prompt: "failed", stream: true }));
  await failed.say("and half b");
  failed.hangUp();
  expect((await Promise.all(asked)).map(({ status }) => status)).toEqual([200, 502]);
  for (const { name, heard, leave } of all) {
    const told = [await heard.ended("stopped"), await heard.ended("failed")];
    expect({ name, told }).toMatchObject({
      name,
      told: ["half a", "and half b"].map((whole) => ({ whole, streamed: whole, ends: 1 })),
    });
    expect({ name, events: heard.events }).toEqual({ name, events: ["stopped", "failed"] });
    leave();
  }
});

test("an answer by events is given again to who asks with the same message_id, while it goes on and when it is over", async () => {
  const chat = await chats.chat();
  const model = modelFor(chats.upstream, "again");
  const headers = {
    authorization: `Bearer ${chat.owner.token}`,
    accept: "text/event-stream",
    "content-type": "application/json",
  };
  const body = JSON.stringify({ id: chat.id, prompt: "again", message_id: "01a2008f-95ab-7ad8-85b8-356084fb3563" });
  const ask = async () => {
    const heard = new Hearing();
    const response = await fetch(`${chats.app.url}/chat/prompt`, { method: "POST", headers, body });
    return { heard, over: readEvents(response, heard) };
  };
  const first = await ask();
  await model.say("one ");
  await first.heard.partly("again", 4);
  const second = await ask();
  await model.say("two");
  model.end();
  for (const { heard, over } of [first, second, await ask()]) {
    await over;
    expect(heard.of("again")).toMatchObject({ begun: 1, whole: "one two", ends: 1 });
    expect(heard.events).toEqual([]);
  }
  expect(first.heard.of("again")?.streamed).toBe("one two");
  expect(chats.upstream.requests).toHaveLength(1);
  expect(await chat.rows()).toHaveLength(1);
});
