import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Chat, type Chats, modelFor, sent, startChats } from "../chat/support.ts";
import { faults, type Handler } from "../support/upstream.ts";
import { sse } from "../support/upstream-answers.ts";
import { startWire } from "../support/wire.ts";
import { asking, collect, failureOf, openaiAt, textOf } from "./openai.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats({ UPSTREAM_TIMEOUT: "1" });
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

const model = "gpt-4o";
const both = [false, true];

/** How the upstream answers the prompt of this name. */
function answering(prompt: string, handler: Handler): void {
  chats.upstream.when(async (it) => (await sent(it)).messages?.at(-1)?.content === prompt, handler);
}
/** The same stops the product's own retries, which are tested elsewhere. */
const failing = (status: number, error: object, headers: Record<string, string> = {}): Handler =>
  faults.status(status, { error }, { "x-should-retry": "false", ...headers });

const before: [what: string, handler: Handler, status: number, code: string, more?: object][] = [
  ["our key is refused", failing(401, { message: "sk-planted", code: "invalid_api_key" }), 502, "upstream_key_rejected"],
  ["the request is refused", failing(400, { code: "invalid_value" }), 502, "upstream_refused"],
  ["there is no such model", failing(404, { code: "model_not_found" }), 502, "upstream_refused"],
  ["the quota is used up", failing(429, { code: "insufficient_quota" }), 503, "upstream_busy"],
  ["it is at its limit for long", failing(429, {}, { "retry-after": "60" }), 503, "upstream_busy", { retryAfter: "60" }],
  ["it fails", failing(500, { code: "server_error" }), 502, "upstream_failed"],
  ["it answers something else", faults.status(200, "<html>"), 502, "upstream_garbled"],
  ["it breaks off before the first word", faults.endWithoutTerminal(0), 502, "upstream_reset"],
  ["it cannot be heard", faults.resetBeforeHeaders(), 502, "upstream_reset"],
  ["it does not answer", faults.hang(), 504, "upstream_timeout"],
];

describe("before the first word", () => {
  test.each(before)("where %s, there is the client's own error", async (what, handler, status, code, more) => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const client = openaiAt(chats, chat);
    answering(what, handler);
    const errors = both.map((stream) => failureOf(client.chat.completions.create({ model, messages: asking(what), stream })));
    for (const error of await Promise.all(errors)) {
      expect(error).toBeInstanceOf(OpenAI.InternalServerError);
      expect(error).toMatchObject({ status, code, param: null, error: { source: "gateway" } });
      expect(error.headers?.get("retry-after")).toBe(
        (more as { retryAfter?: string })?.retryAfter ?? (status === 503 ? "2" : null),
      );
      expect(String(error.message)).not.toMatch(/sk-|planted/);
      expect((await chats.eventOf({ headers: error.headers as Headers })).errorCode).toBe(code);
    }
    const failed = { state: "failed", reply: "", errorCode: code };
    expect(await chat.rows()).toMatchObject([failed, failed]);
    await viewer.until("both failures", () => viewer.named("failed").length === 2);
    expect(viewer.named("failed")).toMatchObject([{ error: { code } }, { error: { code } }]);
    viewer.leave();
  });

  test("the client does not try again by itself: its prompt is in the chat", async () => {
    const chat = await chats.chat();
    const patient = openaiAt(chats, chat, chat.owner, { maxRetries: 2 });
    answering("once", failing(500, {}));
    for (const stream of both) {
      const error = await failureOf(patient.chat.completions.create({ model, messages: asking("once"), stream }));
      expect(error).toMatchObject({ status: 502, code: "upstream_failed" });
    }
    expect(await chat.rows()).toHaveLength(2);
    expect(chats.upstream.requests).toHaveLength(2);
  });
});

const said = "word-0 word-1 word-2 ";
const chunk = (content: string) => sse({ model, choices: [{ index: 0, delta: { content }, finish_reason: null }] });
const during: [what: string, handler: Handler, code: string][] = [
  ["its connection is reset", faults.resetMidStream(3), "upstream_reset"],
  ["its connection ends", faults.resetMidStream(3, "fin"), "upstream_reset"],
  ["it ends without an end", faults.endWithoutTerminal(3), "upstream_reset"],
  [
    "it says that it failed",
    faults.slices(chunk(said) + sse({ error: { message: "sk-planted", code: "oops" } }), [11]),
    "upstream_failed",
  ],
  ["it goes on in nonsense", faults.slices(`${chunk(said)}data: {"choices":[{\n\n`, [11]), "upstream_garbled"],
];

describe("after some words", () => {
  test.each(during)("where %s, what there is stays, and the client gets an error", async (what, handler, code) => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const client = openaiAt(chats, chat, chat.owner, { maxRetries: 2 });
    answering(what, handler);
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    const stream = await client.chat.completions.create({ model, messages: asking(what), stream: true });
    const broken = await failureOf(
      (async () => {
        for await (const it of stream) chunks.push(it);
      })(),
    );
    expect(broken).toMatchObject({ status: undefined, code, error: { source: "gateway" } });
    expect(JSON.stringify(broken.error)).not.toMatch(/sk-|planted/);
    expect([textOf(chunks), chunks.at(-1)?.choices[0]?.finish_reason]).toEqual([said, null]);
    const whole = await failureOf(client.chat.completions.create({ model, messages: asking(what) }));
    expect(whole).toMatchObject({ status: 502, code });

    const kept = { state: "failed", reply: said, errorCode: code };
    expect(await chat.rows()).toMatchObject([kept, kept]);
    await viewer.until("both ends", () => [...viewer.messages.values()].filter((it) => it.whole === said).length === 2);
    expect(viewer.named("failed")).toMatchObject([{ error: { code } }, { error: { code } }]);
    viewer.leave();
  });
});

describe("an answer that is lost on the way", () => {
  /** The client with a wire before it that can be cut. */
  const behindWire = async (chat: Chat) => {
    const wire = await startWire(Number(new URL(chats.app.url).port));
    const baseURL = `http://127.0.0.1:${wire.port}/chat/${chat.id}/v1`;
    return { wire, client: openaiAt(chats, chat, chat.owner, { baseURL, maxRetries: 2 }) };
  };

  test.each(both)("is asked for again with the same Idempotency-Key, and there is one message (stream: %s)", async (stream) => {
    const chat = await chats.chat();
    const { client, wire } = await behindWire(chat);
    const asked = modelFor(chats.upstream, "lost");
    const headers = { "Idempotency-Key": "lost" };
    const answer = client.chat.completions.create({ model, messages: asking("lost"), stream }, { headers });
    await asked.asked;
    wire.cut();
    await asked.say("found ");
    await asked.say("again");
    await asked.end();
    const got = await answer;
    const text = Symbol.asyncIterator in got ? textOf(await collect(got)) : got.choices[0]?.message.content;
    expect(text).toBe("found again");
    expect(await chat.rows()).toMatchObject([{ prompt: "lost", reply: "found again", state: "done" }]);
    expect(chats.upstream.requests).toHaveLength(1);
    await wire.close();
  });

  test("in the middle of a stream is an error to the client, and no end", async () => {
    const chat = await chats.chat();
    const { client, wire } = await behindWire(chat);
    const asked = modelFor(chats.upstream, "cut");
    const [stream] = await Promise.all([
      client.chat.completions.create({ model, messages: asking("cut"), stream: true }),
      asked.say("one "),
    ]);
    const reading = (async () => {
      for await (const { choices } of stream) if (choices[0]?.delta.content === "one ") wire.cut();
    })();
    await expect(reading).rejects.toThrow();
    await asked.end();
    await wire.close();
  });

  test("in the middle of a stream is got whole with the same key, while it goes on and when it is over", async () => {
    const chat = await chats.chat();
    const { client, wire } = await behindWire(chat);
    const asked = modelFor(chats.upstream, "half");
    const ask = async () =>
      client.chat.completions.create(
        { model, messages: asking("half"), stream: true, stream_options: { include_usage: true } },
        { headers: { "Idempotency-Key": "half" } },
      );
    const [first] = await Promise.all([ask(), asked.say("one ")]);
    for await (const { choices } of first) if (choices[0]?.delta.content === "one ") break;
    wire.cut();
    const again = ask();
    await asked.say("two");
    await asked.end();
    const [meanwhile, later] = [await collect(await again), await collect(await ask())];
    expect([textOf(meanwhile), textOf(later)]).toEqual(["one two", "one two"]);
    expect(later).toEqual(meanwhile);
    expect(later.at(-1)?.usage).toMatchObject({ prompt_tokens: 9, completion_tokens: 12 });
    expect(await chat.rows()).toHaveLength(1);
    expect(chats.upstream.requests).toHaveLength(1);
    await wire.close();
  });

  test("asked for ten times at once, streaming and not, is one message and one call of the model", async () => {
    const chat = await chats.chat();
    const client = openaiAt(chats, chat);
    const asked = modelFor(chats.upstream, "ten");
    const answers = Array.from({ length: 10 }, async (_, at) => {
      const options = { headers: { "Idempotency-Key": "ten" } };
      if (at % 2) {
        const chunks = await collect(
          await client.chat.completions.create({ model, messages: asking("ten"), stream: true }, options),
        );
        return [chunks[0]?.id, textOf(chunks)];
      }
      const { id, choices } = await client.chat.completions.create({ model, messages: asking("ten") }, options);
      return [id, choices[0]?.message.content];
    });
    await asked.say("the same");
    await asked.end();
    const [message] = await Promise.all(answers).then(() => chat.rows());
    for (const answer of await Promise.all(answers)) expect(answer).toEqual([`chatcmpl-${message?.id}`, "the same"]);
    expect(await chat.rows()).toHaveLength(1);
    expect(chats.upstream.requests).toHaveLength(1);
  });

  test("is another's where another has the same key", async () => {
    const chat = await chats.chat(1);
    const other = await chats.chat(0);
    const headers = { "Idempotency-Key": "shared" };
    const ask = (client: OpenAI) => client.chat.completions.create({ model, messages: asking("hi") }, { headers });
    const [mine, theirs, elsewhere, again] = [
      await ask(openaiAt(chats, chat)),
      await ask(openaiAt(chats, chat, chat.others[0])),
      await ask(openaiAt(chats, other)),
      await ask(openaiAt(chats, chat)),
    ];
    expect(new Set([mine.id, theirs.id, elsewhere.id]).size).toBe(3);
    expect(again).toEqual(mine);
    expect(chats.upstream.requests).toHaveLength(3);
  });
});

test("a developer who reads later has missed nothing", async () => {
  const chat = await chats.chat();
  const asked = modelFor(chats.upstream, "at leisure");
  const pieces = Array.from({ length: 24 }, (_, at) => `${at} ${"x".repeat(200_001)}🎉`);
  const [stream] = await Promise.all([
    openaiAt(chats, chat).chat.completions.create({ model, messages: asking("at leisure"), stream: true }),
    asked.say(pieces[0] as string),
  ]);
  for (const piece of pieces.slice(1)) await asked.say(piece);
  asked.end();
  const chunks = await collect(stream);
  // One that is not equal would be shown, all of it.
  expect(textOf(chunks) === pieces.join("")).toBe(true);
  const longest = Math.max(...chunks.map(({ choices }) => choices[0]?.delta.content?.length ?? 0));
  expect(longest).toBeLessThanOrEqual(16_384);
});

test("a developer who stops reading leaves the reply to those who watch", async () => {
  const chat = await chats.chat(1);
  const viewer = await chat.watch(chat.others[0]);
  const asked = modelFor(chats.upstream, "abandoned");
  const [stream] = await Promise.all([
    openaiAt(chats, chat).chat.completions.create({ model, messages: asking("abandoned"), stream: true }),
    asked.say("some"),
  ]);
  for await (const { choices } of stream) if (choices[0]?.delta.content === "some") break;
  await asked.say(" and the rest");
  await asked.end();
  expect(await viewer.ended("abandoned")).toMatchObject({ streamed: "some and the rest", whole: "some and the rest" });
  expect(await chat.rows()).toMatchObject([{ state: "done", reply: "some and the rest" }]);
  viewer.leave();
});

const noList: [what: string, handler: Handler, status: number, code: string][] = [
  ["is no JSON", faults.status(200, "models"), 502, "upstream_garbled"],
  ["is no list", faults.status(200, { data: "gpt-4o" }), 502, "upstream_garbled"],
  ["names no models", faults.status(200, { object: "list", data: [{ name: "gpt-4o" }] }), 502, "upstream_garbled"],
  ["is refused", failing(403, {}), 502, "upstream_refused"],
  ["is refused with our key", failing(401, {}), 502, "upstream_key_rejected"],
  ["fails", failing(500, {}), 502, "upstream_failed"],
  ["is too much", failing(429, {}, { "retry-after": "30" }), 503, "upstream_busy"],
  ["does not come", faults.hang(), 504, "upstream_timeout"],
  [
    "breaks off",
    (req, res) => {
      res.writeHead(200, { "content-type": "application/json", "content-length": 100 });
      res.write('{"data":[', () => req.socket.resetAndDestroy());
    },
    502,
    "upstream_reset",
  ],
];
test.each(noList)("a list of models that %s is the client's own error", async (_, handler, status, code) => {
  chats.upstream.when(() => true, handler);
  const error = await failureOf(collect(openaiAt(chats, await chats.chat()).models.list()));
  expect(error).toBeInstanceOf(OpenAI.InternalServerError);
  expect(error).toMatchObject({ status, code, error: { source: "gateway" } });
});
