import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { expectRefusal } from "../support/answers.ts";
import { until } from "../support/relay.ts";
import { random, seed } from "../support/seed.ts";
import { faults } from "../support/upstream.ts";
import { sse } from "../support/upstream-answers.ts";
import {
  answerEach,
  type Chat,
  type Chats,
  model,
  modelFor,
  person,
  promptStream,
  replying,
  sent,
  startChats,
  type Viewer,
} from "./support.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

const byEvents = (chat: Chat, fields: Record<string, unknown>, headers = {}) =>
  promptStream(chats.app.url, chat.owner.token, { id: chat.id, ...fields }, headers);
/** What the frames were, in short. */
const shapes = ({ heard }: Viewer) =>
  heard.map(({ event, data }) => {
    const { message, partial } = data as { message: { reply: string }; partial: boolean };
    if (event) return event;
    if (!partial) return "whole";
    return message.reply === "" ? "begin" : "more";
  });

describe("those who watch", () => {
  test("with stream=true hear it begin, its words, and all of it, which is what is stored", async () => {
    const chat = await chats.chat(3);
    const viewers = await Promise.all([chat.owner, ...chat.others].map((by) => chat.watch(by)));
    const it = modelFor(chats.upstream, "tell me");
    const answer = chat.prompt({ prompt: "tell me", stream: true });
    for (const word of ["Spain ", "is ", "a ", "country."]) {
      await it.say(word);
      for (const viewer of viewers) await viewer.partly("tell me", word);
    }
    it.end();
    const { json } = await answer;
    for (const viewer of viewers) {
      const message = await viewer.ended("tell me");
      expect(shapes(viewer)).toEqual(["ping", "begin", "more", "more", "more", "more", "whole"]);
      expect(message).toMatchObject({ id: json.message.id, userId: chat.owner.id, streamed: json.reply, whole: json.reply });
      for (const { id, event, data } of viewer.heard) {
        if (event === "ping") continue;
        expect(id).toMatch(/^\d+-\d+$/);
        expect(data).toEqual({
          message: { id: json.message.id, user_id: chat.owner.id, prompt: "tell me", reply: expect.any(String) },
          partial: expect.any(Boolean),
        });
      }
      viewer.leave();
    }
    expect((await chat.rows())[0]).toMatchObject({ reply: "Spain is a country.", state: "done" });
  });

  test("with stream=false, as by default, hear that it begins and all of it at the end", async () => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    for (const fields of [{}, { stream: false }]) {
      const prompt = `tell me ${JSON.stringify(fields)}`;
      const it = modelFor(chats.upstream, prompt);
      const answer = chat.prompt({ prompt, ...fields });
      await viewer.until("a begin", (all) => all.find(prompt)?.begun === 1);
      for (const word of ["Spain ", "is ", "a ", "country."]) await it.say(word);
      it.end();
      await answer;
      expect(await viewer.ended(prompt)).toMatchObject({ begun: 1, deltas: 0, ends: 1, whole: "Spain is a country." });
    }
    viewer.leave();
  });

  test("who come in the middle hear what there is, and the rest", async () => {
    const chat = await chats.chat(1);
    const first = await chat.watch();
    const it = modelFor(chats.upstream, "tell me");
    const answer = chat.prompt({ prompt: "tell me", stream: true });
    await it.say("Spain is");
    await first.partly("tell me", "Spain is");
    const late = await chat.watch(chat.others[0]);
    await late.partly("tell me", "Spain is");
    await it.say(" a country.");
    it.end();
    await answer;
    const message = await late.ended("tell me");
    expect(message).toMatchObject({ begun: 1, streamed: "Spain is a country.", whole: "Spain is a country." });
    const after = await chat.watch(chat.others[0]);
    await chat.prompt("next");
    await after.ended("next");
    expect(after.messages.size).toBe(1);
    for (const viewer of [first, late, after]) viewer.leave();
  });

  test("who are cut off before anything was said resume from where they came", async () => {
    const chat = await chats.chat();
    const first = await chat.watch();
    await first.until("a place", ({ heard }) => heard.length > 0);
    first.leave();
    const { heard } = first;
    expect(heard).toEqual([{ id: expect.stringMatching(/^\d+-\d+$/), event: "ping", data: {} }]);
    answerEach(chats.upstream, (prompt) => `reply to ${prompt}`);
    await chat.prompt("one");
    const again = await chat.watch(chat.owner, `&after=${heard[0]?.id}`);
    expect(await again.ended("one")).toMatchObject({ whole: "reply to one", ends: 1 });
    expect(again.named("reset")).toEqual([]);
    // Where they came is known to the instance alone that they came to: to another one they may have missed anything.
    const elsewhere = await chat.watch(chat.owner, "&after=0-1");
    expect(await elsewhere.ended("one")).toMatchObject({ whole: "reply to one", ends: 1 });
    expect(elsewhere.named("reset")).toEqual([{}]);
    for (const viewer of [again, elsewhere]) viewer.leave();
  });

  test("several replies at once hear each of them whole", async () => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const prompts = Array.from({ length: 8 }, (_, i) => `prompt ${i}`);
    const models = prompts.map((prompt) => modelFor(chats.upstream, prompt));
    const answers = prompts.map((prompt, i) => chat.prompt({ prompt, stream: true }, i % 2 ? chat.owner : chat.others[0]));
    for (let word = 0; word < 30; word++) await Promise.all(models.map((it, i) => it.say(`${i}.${word} `)));
    for (const it of models) it.end();
    await Promise.all(answers);
    for (const [i, prompt] of prompts.entries()) {
      const whole = Array.from({ length: 30 }, (_, word) => `${i}.${word} `).join("");
      expect(await viewer.ended(prompt)).toMatchObject({ begun: 1, ends: 1, streamed: whole, whole });
    }
    viewer.leave();
  });
});

describe("a prompt that is answered by events", () => {
  test("streams the same frames, to those who watch as well, and its event holds the answer", async () => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const it = modelFor(chats.upstream, "tell me");
    const own = await byEvents(chat, { prompt: "tell me" });
    expect([own.status, own.headers["content-type"]]).toEqual([200, "text/event-stream"]);
    for (const word of ["Spain ", "is ", "a country."]) {
      await it.say(word);
      await Promise.all([own.partly("tell me", word), viewer.partly("tell me", word)]);
    }
    it.end();
    expect(await own.over).toBe("ended");
    await viewer.ended("tell me");
    expect(shapes(own)).toEqual(["begin", "more", "more", "more", "whole"]);
    const messages = viewer.heard.filter(({ event }) => event === null);
    expect(own.heard.map(({ data }) => data)).toEqual(messages.map(({ data }) => data));
    viewer.leave();
    const event = await chats.eventOf(own);
    expect(event).toMatchObject({ status: 200, errorCode: null, promptTokens: 9, completionTokens: 12 });
    const [message] = await chat.read();
    expect(JSON.parse(event.responseBody ?? "")).toEqual({ reply: "Spain is a country.", message });
  });

  test.each([
    ["application/json", "application/json"],
    ["*/*", "application/json"],
    ["text/event-stream;q=0.5, application/json", "application/json"],
    ["text/event-stream;q=0", "application/json"],
    ["application/json;q=0.5, text/event-stream", "text/event-stream"],
    ["TEXT/EVENT-STREAM", "text/event-stream"],
  ])("is one where that is preferred: Accept: %s", async (accept, type) => {
    const chat = await chats.chat();
    const answer = await chat.prompt("hi", chat.owner, { accept });
    expect(answer.headers.get("content-type")).toBe(type);
    expect(answer.text).toContain("Hello from the upstream");
  });

  test("is refused as any other", async () => {
    const chat = await chats.chat();
    const stranger = await person(chats.app.deps.store);
    const events = { accept: "text/event-stream" };
    expectRefusal(await chat.prompt("hi", stranger, events), 404, "not_found");
    expectRefusal(await chat.prompt({ prompt: "hi", context: 51 }, chat.owner, events), 400, "invalid_input");
    expectRefusal(await chats.app.call("/chat/prompt", { body: { id: chat.id, prompt: "hi" }, headers: events }), 401);
    expect(chats.upstream.requests).toHaveLength(0);
  });

  test("off the record is the message, whole and empty", async () => {
    const chat = await chats.chat();
    const own = await byEvents(chat, { prompt: "between us", otr: true });
    expect(await own.over).toBe("ended");
    expect(own.find("between us")).toMatchObject({ whole: "", deltas: 0 });
  });
});

describe("a prompter who goes away", () => {
  test.each(["JSON", "events"])("in the middle (%s): the reply is finished, stored, and heard by others", async (how) => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const it = modelFor(chats.upstream, "tell me");
    const leaving = new AbortController();
    const gone = fetch(`${chats.app.url}/chat/prompt`, {
      method: "POST",
      signal: leaving.signal,
      headers: {
        authorization: `Bearer ${chat.owner.token}`,
        "content-type": "application/json",
        accept: how === "JSON" ? "application/json" : "text/event-stream",
      },
      body: JSON.stringify({ id: chat.id, prompt: "tell me", stream: true }),
    }).then((answer) => answer.text());
    await it.say("Spain is");
    await viewer.partly("tell me", "Spain is");
    leaving.abort();
    await expect(gone).rejects.toThrow();
    await it.say(" a country.");
    it.end();
    expect(await viewer.ended("tell me")).toMatchObject({ streamed: "Spain is a country.", whole: "Spain is a country." });
    expect(viewer.named("failed")).toEqual([]);
    viewer.leave();
    expect((await (await it.asked).closed).aborted).toBe(false);
    const line = await chats.logged(({ endpoint }) => endpoint === "chat.prompt");
    const event = await chats.eventOf({ headers: new Headers({ "x-proxy-gpt-request-id": String(line.requestId) }) });
    // All that was asked for was done, and paid for; that nobody heard the answer is no fault of it.
    expect(event).toMatchObject({ status: 200, errorCode: null, promptTokens: 9, completionTokens: 12 });
    expect(await chat.read()).toMatchObject([{ state: "done", reply: "Spain is a country." }]);
  });

  test("before the first word: the same", async () => {
    const chat = await chats.chat();
    const it = modelFor(chats.upstream, "tell me");
    const own = await byEvents(chat, { prompt: "tell me" });
    await it.asked;
    own.leave();
    await it.say("Spain");
    it.end();
    await chats.logged(({ endpoint, status }) => endpoint === "chat.prompt" && status === 200);
    expect(await chat.rows()).toMatchObject([{ state: "done", reply: "Spain" }]);
  });
});

test("a prompter whose session ends hears no more; the reply is finished for the others", async () => {
  const strict = await startChats({}, { authorizeEveryMs: 50 });
  onTestFinished(() => strict.close());
  const chat = await strict.chat(1);
  const [prompter] = chat.others;
  const viewer = await chat.watch();
  const it = modelFor(strict.upstream, "tell me");
  const own = await promptStream(strict.app.url, prompter?.token ?? "", { id: chat.id, prompt: "tell me" });
  await it.say("Spain is");
  await own.partly("tell me", "Spain is");
  expect((await chat.call("/user/logout", {}, prompter)).status).toBe(200);
  expect(await own.over).toBe("cut");
  expect(own.find("tell me")).toMatchObject({ ends: 0, streamed: "Spain is" });
  await it.say(" a country.");
  it.end();
  expect(await viewer.ended("tell me")).toMatchObject({ streamed: "Spain is a country.", whole: "Spain is a country." });
  viewer.leave();
  expect(await strict.eventOf(own)).toMatchObject({ userId: prompter?.id, promptTokens: 9, completionTokens: 12 });
});

test("a prompter who does not read holds nobody up, and gets everything when they read on", async () => {
  const chat = await chats.chat(1);
  const viewer = await chat.watch(chat.others[0]);
  const it = modelFor(chats.upstream, "tell me");
  const own = await byEvents(chat, { prompt: "tell me" });
  own.pause();
  const piece = "word ".repeat(13_000);
  for (let n = 0; n < 64; n++) await it.say(piece);
  it.end();
  expect((await viewer.ended("tell me")).whole === piece.repeat(64)).toBe(true);
  viewer.leave();
  expect((await chat.rows()).map(({ state, reply }) => [state, reply.length])).toEqual([["done", piece.length * 64]]);
  own.resume();
  expect(await own.over).toBe("ended");
  const message = own.find("tell me");
  expect(message?.streamed === piece.repeat(64)).toBe(true);
  expect(message?.whole === piece.repeat(64)).toBe(true);
});

describe("odd replies", () => {
  /** What the prompter by JSON, one by events, somebody who watches and the store make of an answer of the upstream's. */
  async function heardOf(pieces: readonly string[], raw = false): Promise<string[]> {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const send = (it: ReturnType<typeof model>) => async () => {
      for (const piece of pieces) await (raw ? it.send(piece) : it.say(piece));
      it.end();
    };
    const [one, two] = [modelFor(chats.upstream, "one"), modelFor(chats.upstream, "two")];
    const answer = chat.prompt({ prompt: "one", stream: true });
    await send(one)();
    const { json } = await answer;
    const own = byEvents(chat, { prompt: "two" });
    await send(two)();
    await (await own).over;
    const [first, second] = [await viewer.ended("one"), await viewer.ended("two")];
    viewer.leave();
    const rows = await chat.rows();
    const [read] = await chat.read();
    const mine = (await own).find("two");
    return [
      ...[json.reply, json.message.reply, first.streamed, first.whole, second.streamed, second.whole],
      ...[mine?.streamed, mine?.whole, rows[0]?.reply, rows[1]?.reply, read?.reply],
    ] as string[];
  }
  const same = (text: string) => Array(11).fill(text);
  /** A delta whose text is given as JSON has it. */
  const delta = (escaped: string) => `data: {"choices":[{"index":0,"delta":{"content":"${escaped}"}}]}\n\n`;

  test.each<[what: string, pieces: string[], reply: string]>([
    ["NUL", [delta("a\\u0000b"), delta("\\u0000")], "a\ufffdb\ufffd"],
    ["half a surrogate pair", [delta("a\\ud83db"), delta("\\ude00c")], "a\ufffdb\ufffdc"],
    ["half of one at the end", [delta("a"), delta("\\ud83d")], "a\ufffd"],
    ["a pair in two pieces", [delta("a\\ud83d"), delta("\\ude00b")], "a😀b"],
    ["pairs cut everywhere", [delta("\\ud83d"), delta("\\ude00\\ud83d"), delta("\\ude01"), delta("")], "😀😁"],
    ["line ends of all kinds", [delta("a\\r\\nb\\rc\\n\\nd\\u2028e\\u2029f\\u0085")], "a\r\nb\rc\n\nd\u2028e\u2029f\u0085"],
    [
      "what looks like events",
      [delta("\\n\\ndata: {}\\n\\nevent: failed\\nid: 1\\n\\n")],
      "\n\ndata: {}\n\nevent: failed\nid: 1\n\n",
    ],
    ["what looks like HTML", [delta("</script><script>alert(1)</script><!--")], "</script><script>alert(1)</script><!--"],
    ["what looks like JSON", [delta('\\"},\\"partial\\":false}')], '"},"partial":false}'],
    ["marks of order", [delta("\\ufeffa\\ufffe\\uffff\\u202e")], "\ufeffa\ufffe\uffff\u202e"],
    ["a refusal in place of words", ['data: {"choices":[{"delta":{"refusal":"I cannot."}}]}\n\n'], "I cannot."],
  ])("%s", async (_what, pieces, reply) => {
    expect(await heardOf(pieces, true)).toEqual(same(reply));
  });

  test("an empty one is a reply", async () => {
    expect(await heardOf([])).toEqual(same(""));
  });

  test("one of a megabyte in a hundred pieces", async () => {
    const piece = "日本語 🎉 word ".repeat(700);
    const heard = await heardOf(Array(100).fill(piece));
    expect(heard.map((text) => text === piece.repeat(100))).toEqual(Array(11).fill(true));
  });

  test("one of a megabyte in one piece", async () => {
    const text = "🎉x".repeat(333_333);
    const heard = await heardOf([text]);
    expect(heard.map((it) => it === text)).toEqual(Array(11).fill(true));
  });

  test.each([49_151, 49_152, 49_153, 32_767, 32_768, 32_769])("one of %i characters", async (length) => {
    const text = `${"x".repeat(length - 3)}🎉.`.slice(0, length);
    const heard = await heardOf([text]);
    expect(heard.map((it) => it === text)).toEqual(Array(11).fill(true));
  });

  test(`pieces of any length (seed ${seed})`, async () => {
    const chance = random(seed);
    const signs = ["a", "ä", "日", "🎉", "👩‍👩‍👧", "\n", '"', "\\", "\u0301", "\u200f", " "];
    const pieces = Array.from({ length: 150 }, () => {
      const length = Math.floor(chance() ** 3 * 60);
      return Array.from({ length }, () => signs[Math.floor(chance() * signs.length)]).join("");
    });
    expect(await heardOf(pieces)).toEqual(same(pieces.join("")));
  });
});

describe("long prompts reach those who watch, whole", () => {
  test.each([4_096, 4_097, 16_384, 16_385, 200_000])("of %i characters", async (length) => {
    const prompt = `${"x".repeat(length - 2)}🎉`;
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const it = modelFor(chats.upstream, prompt);
    const answer = chat.prompt({ prompt, stream: true });
    await it.say("Spain ");
    await viewer.until("a word", ({ messages }) => [...messages.values()].some(({ streamed }) => streamed === "Spain "));
    const late = await chat.watch();
    await late.until("a word", ({ messages }) => [...messages.values()].some(({ streamed }) => streamed === "Spain "));
    await it.say("is.");
    it.end();
    const { id } = (await answer).json.message;
    for (const each of [viewer, late]) {
      const message = await each.ended(id);
      expect([message.whole, message.streamed, message.begun, message.ends]).toEqual(["Spain is.", "Spain is.", 1, 1]);
      const last = each.heard.at(-1)?.data as { message: { prompt: string } };
      expect(last.message.prompt === prompt).toBe(true);
      each.leave();
    }
  });

  test("with a long reply as well, and off the record", async () => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const [prompt, reply] = ["p".repeat(100_000), "r".repeat(100_000)];
    chats.upstream.next(replying(reply));
    const { json } = await chat.prompt({ prompt, stream: true });
    const message = await viewer.ended(json.message.id);
    expect([message.whole === reply, message.streamed === reply, message.prompt === prompt]).toEqual([true, true, true]);
    const otr = await chat.prompt({ prompt: `${prompt}!`, otr: true });
    const said = await viewer.ended(otr.json.message.id);
    expect([said.whole, said.prompt === `${prompt}!`]).toEqual(["", true]);
    viewer.leave();
  });
});

describe("what the upstream makes of a stream does not change the reply", () => {
  test("usage with every piece, comments, other choices, tools and unknown fields", async () => {
    const chat = await chats.chat();
    const usage = { prompt_tokens: 7, completion_tokens: 3 };
    const piece = (content: unknown, more: object = {}) => sse({ choices: [{ index: 0, delta: { content } }], usage, ...more });
    const text =
      ": hello\n\n" +
      piece("Spain ", { obfuscation: "x" }) +
      sse({ choices: [{ index: 1, delta: { content: "NOT THIS" } }], usage: null }) +
      piece(null) +
      sse({ choices: [] }) +
      piece("is.") +
      sse({ choices: [{ index: 0, delta: {}, finish_reason: "length" }], usage: { ...usage, completion_tokens: 4 } }) +
      "data: [DONE]\n\ndata: {broken\n\n";
    for (const sizes of [[1], [7, 2, 30], [100_000]]) {
      chats.upstream.next(faults.slices(text, sizes));
      const { json } = await chat.prompt("hi");
      expect(json.message).toMatchObject({ reply: "Spain is.", state: "done", prompt_tokens: 7, completion_tokens: 4 });
    }
    expect(await sent(await chats.upstream.waitFor(3))).toMatchObject({ stream: true });
  });

  test("an upstream that goes on talking after its end is not listened to", async () => {
    const chat = await chats.chat();
    const it = model();
    chats.upstream.next(it.handler);
    const answer = chat.prompt("hi");
    await it.say("Spain");
    await it.send('data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n');
    expect((await answer).json.message).toMatchObject({ reply: "Spain", state: "done" });
    await until(async () => (await (await it.asked).closed).aborted);
  });
});
