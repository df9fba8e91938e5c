import { eq } from "drizzle-orm";
import { countTokens } from "gpt-tokenizer";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { eventOf, expectRefusal } from "../support/answers.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { replyText } from "../support/upstream-answers.ts";
import { type Chats, chatOf, person, replying, sent, startChats } from "./support.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats({ MODEL_ALIASES: "gpt-3=gpt-3.5-turbo,fast=gpt-4o-mini" });
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

const json = { "content-type": "application/json" };
const form = { "content-type": "application/x-www-form-urlencoded" };
const ID = expect.stringMatching(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
const TIME = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);

describe("a prompt", () => {
  test("answers the reply and the whole message, which everybody then reads", async () => {
    const chat = await chats.chat(1);
    const [friend] = chat.others;
    const answer = await chat.prompt("tell me about spain", friend);
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({
      reply: replyText,
      message: {
        id: ID,
        chat_id: chat.id,
        seq: 1,
        user_id: friend?.id,
        username: friend?.username,
        prompt: "tell me about spain",
        reply: replyText,
        model: "gpt-4o-mini",
        otr: false,
        state: "done",
        stopped_by: null,
        error_code: null,
        flagged: null,
        image: null,
        prompt_tokens: 9,
        completion_tokens: 12,
        created_at: TIME,
        updated_at: TIME,
      },
    });
    expect(await chat.read()).toEqual([answer.json.message]);
    expect(await chat.rows()).toMatchObject([
      {
        id: answer.json.message.id,
        requestId: answer.headers.get("x-proxy-gpt-request-id"),
        state: "done",
        reply: replyText,
        contextTokens: expect.toSatisfy((tokens) => tokens > 0),
      },
    ]);
    const listed = await chat.call("/chat/index", {});
    expect(listed.json.chats).toMatchObject([{ id: chat.id, last_message: { id: answer.json.message.id } }]);
  });

  test("is asked of the upstream as a stream with its usage, in the role of the user and with nothing else", async () => {
    const chat = await chats.chat();
    await chat.prompt("hi");
    const body = await sent(await chats.upstream.waitFor(1));
    expect(body).toEqual({
      model: "gpt-4o-mini",
      stream: true,
      stream_options: { include_usage: true },
      messages: [{ role: "user", content: "hi" }],
    });
  });

  test("by form, as documented, by JSON under a form's type, and under the function's own name alone", async () => {
    const { id, owner, call } = await chats.chat();
    const ask = (path: string, body: string, headers: Record<string, string>) =>
      chats.app.call(path, { token: owner.token, body, headers });
    const fields = new URLSearchParams({ id, prompt: "tell me & you = 100%", stream: "true", context: "5", otr: "false" });
    expect((await ask("/chat/prompt", fields.toString(), form)).json.message.prompt).toBe("tell me & you = 100%");
    expect((await ask("/chat/prompt", JSON.stringify({ id, prompt: "json" }), form)).json.message.prompt).toBe("json");
    expect((await call("/chat/prompt", { id, prompt: "at\nlast" })).json.message).toMatchObject({ prompt: "at\nlast", seq: 3 });
  });

  test("of a stranger, a removed member, nobody, and in no chat at all looks the same, and asks nobody", async () => {
    const chat = await chats.chat(1);
    const [friend] = chat.others;
    const stranger = await person(chats.app.deps.store);
    expect((await chat.prompt("hi", friend)).status).toBe(200);
    const gone = { chat_id: chat.id, user_ids: [friend?.id] };
    expect((await chat.call("/chat/user/remove", gone)).status).toBe(200);
    chats.upstream.reset();
    const absent = { prompt: "hi", id: "01a20087-e128-7fb8-be67-000000000000" };
    const refusals = await Promise.all([
      chat.prompt("hi", stranger),
      chat.prompt("hi", friend),
      chat.call("/chat/prompt", absent),
      chat.prompt({ prompt: "hi", otr: true }, stranger),
    ]);
    for (const refusal of refusals) expectRefusal(refusal, 404, "not_found");
    const bodies = refusals.map(({ json }) => ({ ...json.error, request_id: "" }));
    expect(new Set(bodies.map((it) => JSON.stringify(it))).size).toBe(1);
    expectRefusal(await chats.app.call("/chat/prompt", { body: { id: chat.id, prompt: "hi" } }), 401, "unauthenticated");
    expect(chats.upstream.requests).toHaveLength(0);
    expect(await chat.rows()).toHaveLength(1);
  });
});

describe("the model", () => {
  test.each([
    ["the default one", undefined, undefined, "gpt-4o-mini", "gpt-4o-mini"],
    ["the chat's", "gpt-4o", undefined, "gpt-4o", "gpt-4o"],
    ["the prompt's", "gpt-4o", "o3-mini", "o3-mini", "o3-mini"],
    ["an alias, of the chat", "gpt-3", undefined, "gpt-3", "gpt-3.5-turbo"],
    ["an alias, of the prompt", "gpt-4o", "fast", "fast", "gpt-4o-mini"],
    ["one that nobody knows", undefined, "ft:gpt-4o:org/me::a1?b#c", "ft:gpt-4o:org/me::a1?b#c", "ft:gpt-4o:org/me::a1?b#c"],
  ])("is %s", async (_what, ofChat, ofPrompt, stored, asked) => {
    const chat = await chats.chat(0, { ...(ofChat && { model: ofChat }) });
    const answer = await chat.prompt({ prompt: "hi", ...(ofPrompt && { model: ofPrompt }) });
    expect(answer.json.message.model).toBe(stored);
    expect((await sent(await chats.upstream.waitFor(1))).model).toBe(asked);
    expect(await chats.eventOf(answer)).toMatchObject({ model: asked });
  });

  test("is the event's as the upstream names it", async () => {
    const chat = await chats.chat();
    chats.upstream.next(replying("Hello"));
    expect(await chats.eventOf(await chat.prompt("hi"))).toMatchObject({ model: "gpt-4o-mini-2024-07-18" });
  });

  test.each(["", "two words", "ü", "x".repeat(129), "a\nb"])("is not %j", async (model) => {
    const chat = await chats.chat();
    expectRefusal(await chat.prompt({ prompt: "hi", model }), 400, "invalid_input");
    expect(chats.upstream.requests).toHaveLength(0);
  });
});

describe("tokens", () => {
  const usageOf = async (userId: string) => {
    const { db, usage } = chats.app.deps.store;
    const rows = await db.select().from(usage).where(eq(usage.userId, userId));
    return rows.map(({ promptTokens, completionTokens }) => [promptTokens, completionTokens]);
  };

  test("are those that the upstream reports: in the message, the event and the user's usage", async () => {
    const chat = await chats.chat();
    chats.upstream.next(replying("Hello", { prompt_tokens: 1_234, completion_tokens: 56, total_tokens: 1_290 }));
    const answer = await chat.prompt("hi");
    expect(answer.json.message).toMatchObject({ prompt_tokens: 1_234, completion_tokens: 56 });
    const event = await chats.eventOf(answer);
    expect(event).toMatchObject({ promptTokens: 1_234, completionTokens: 56, tokensEstimated: false });
    expect(await usageOf(chat.owner.id)).toEqual([[1_234, 56]]);
  });

  test("are estimated where it reports none, the context with them", async () => {
    const chat = await chats.chat();
    const [first, reply, second] = ["How is the weather in Spain?", "Mostly sunny, with some clouds in the north.", "And then?"];
    chats.upstream.next(replying(reply));
    await chat.prompt(first);
    chats.upstream.next(replying(reply, null));
    const answer = await chat.prompt(second);
    const { prompt_tokens: prompt, completion_tokens: completion } = answer.json.message;
    // What each message costs besides its text is up to twelve tokens here.
    const inPrompt = countTokens(first + reply + second);
    expect(prompt).toBeGreaterThan(inPrompt * 0.5);
    expect(prompt).toBeLessThan(inPrompt * 2 + 12);
    expect(completion).toBeGreaterThan(countTokens(reply) * 0.5);
    expect(completion).toBeLessThan(countTokens(reply) * 2);
    const estimated = { promptTokens: prompt, completionTokens: completion, tokensEstimated: true };
    expect(await chats.eventOf(answer)).toMatchObject(estimated);
    expect(await usageOf(chat.owner.id)).toEqual([[9 + prompt, 12 + completion]]);
  });
});

describe("the event of a prompt", () => {
  test("holds who, which chat and group, the model, the tokens, the upstream's id and both bodies", async () => {
    const admin = await chats.app.person();
    const token = admin.token;
    const group = (await chats.app.call("/group/create", { token, body: { name: "A team" } })).json;
    const made = await chats.app.call("/chat/create", { token, body: { group_id: group.id } });
    const chat = chatOf(chats.app, made.json.id, admin);
    const answer = await chat.prompt({ prompt: "hi", context: 3 });
    const event = await chats.eventOf(answer);
    const upstreamRequestId = (await chats.upstream.waitFor(1)).id;
    expect(event).toMatchObject({
      endpoint: "chat.prompt",
      method: "POST",
      path: "/chat/prompt",
      query: "",
      userId: admin.id,
      chatId: chat.id,
      groupId: group.id,
      status: 200,
      errorCode: null,
      model: "gpt-4o-mini",
      promptTokens: 9,
      completionTokens: 12,
      tokensEstimated: false,
      upstreamRequestId,
    });
    expect(JSON.parse(event.requestBody ?? "")).toMatchObject({ id: chat.id, prompt: "hi", context: 3 });
    expect(JSON.parse(event.responseBody ?? "")).toEqual(answer.json);
  });

  test("is there before the upstream is asked", async () => {
    const chat = await chats.chat();
    let events = -1;
    chats.upstream.next(async (...call) => {
      const { db, events: table } = chats.app.deps.store;
      events = await db.$count(table, eq(table.userId, chat.owner.id));
      await replying("Hello")(...call);
    });
    const before = await chats.app.deps.store.db.$count(
      chats.app.deps.store.events,
      eq(chats.app.deps.store.events.userId, chat.owner.id),
    );
    await chat.prompt("hi");
    expect(events).toBe(before + 1);
  });

  test("says what was refused, too", async () => {
    const chat = await chats.chat();
    const answer = await chat.prompt({ prompt: "hi", context: 51 });
    expect(await eventOf(chats.app, answer)).toMatchObject({ status: 400, errorCode: "invalid_input", userId: chat.owner.id });
  });

  test("keeps no prompt that came in the query, which is refused", async () => {
    const { id, owner, rows } = await chats.chat();
    for (const query of [
      `id=${id}&prompt=swordfish`,
      `id=${id}&PROMPT=swordfish&prompt=x`,
      `prompt=swordfish&otr=true&id=${id}`,
    ]) {
      const answer = await chats.app.call(`/chat/prompt?${query}`, { token: owner.token, body: {} });
      expectRefusal(answer, 400, "invalid_input");
      expect((await chats.eventOf(answer)).query).not.toContain("swordfish");
    }
    expect(await rows()).toEqual([]);
    expect(chats.upstream.requests).toHaveLength(0);
    expect(JSON.stringify(chats.lines)).not.toContain("swordfish");
  });
});

/** Everything that the audit log holds, as text. */
async function auditText({ app: { deps } }: Chats): Promise<string> {
  const { db, events, outcomes } = deps.store;
  return JSON.stringify([await db.select().from(events), await db.select().from(outcomes)]);
}

describe("off the record", () => {
  const SECRET = "the-eagle-lands-at-noon";

  test("it is shown to members, asked of nobody, and stands in no event and no line of the log", async () => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch(chat.others[0]);
    const answers = [
      await chat.prompt({ prompt: SECRET, otr: true }),
      await chat.prompt({ prompt: `${SECRET} again`, otr: true, stream: true }),
      await chats.app.call("/chat/prompt", {
        token: chat.owner.token,
        body: new URLSearchParams({ id: chat.id, prompt: `${SECRET} by form`, otr: "true" }).toString(),
        headers: form,
      }),
    ];
    expect(answers.map(({ status, json }) => [status, json.reply, json.message.state, json.message.otr])).toEqual(
      answers.map(() => [200, "", "off_record", true]),
    );
    expect(await chat.read()).toEqual(answers.map(({ json }) => json.message));
    for (const { json } of answers) {
      const heard = await viewer.ended(json.message.prompt);
      expect(heard).toMatchObject({ id: json.message.id, whole: "", deltas: 0, ends: 1, userId: chat.owner.id });
    }
    // What reads and lists shows it, and keeps nothing of it.
    expect((await chat.call("/chat/index", {})).text).toContain(SECRET);
    viewer.leave();
    for (const answer of answers) expect(await chats.eventOf(answer)).toMatchObject({ status: 200, chatId: chat.id });
    expect(chats.upstream.requests).toHaveLength(0);
    expect(await auditText(chats)).not.toContain(SECRET);
    expect(JSON.stringify(chats.lines)).not.toContain(SECRET);
  });

  test("what is refused stands nowhere either", async () => {
    const chat = await chats.chat();
    const { token } = chat.owner;
    const stranger = await person(chats.app.deps.store);
    const said = { id: chat.id, prompt: SECRET, otr: true };
    const refusals = await Promise.all([
      chat.call("/chat/prompt", said, stranger),
      chat.call("/chat/prompt", { ...said, context: 99 }),
      chat.call("/chat/prompt", { ...said, message_id: "none" }),
      chat.call("/chat/prompt", { ...said, id: "01a20087-e128-7fb8-be67-000000000000" }),
      chat.call("/chat/prompt", { ...said, model: "no model" }),
      chat.call("/chat/prompt", { ...said, otr: "yes" }),
      chats.app.call("/chat/prompt", { token, body: `{"id":"${chat.id}","otr":true,"prompt":"${SECRET}"`, headers: json }),
      chats.app.call("/chat/prompt", { token, body: `id=${chat.id}&otr=true&prompt=${SECRET}%zz`, headers: form }),
      chats.app.call("/chat/prompt", { token, body: `id=${chat.id}&otr=true&prompt=${SECRET}` }),
      chats.app.call(`/chat/prompt?prompt=${SECRET}&otr=true&id=${chat.id}`, { token }),
    ]);
    for (const refusal of refusals) {
      expect(refusal.status).toBeGreaterThanOrEqual(400);
      expect(refusal.status).toBeLessThan(500);
      const id = refusal.headers.get("x-proxy-gpt-request-id");
      const line = await chats.logged(({ requestId, status }) => requestId === id && status !== undefined);
      expect(line).toMatchObject({ status: refusal.status });
    }
    expect(await auditText(chats)).not.toContain(SECRET);
    expect(JSON.stringify(chats.lines)).not.toContain(SECRET);
    expect(await chat.rows()).toEqual([]);
  });

  test.skipIf(skippedWithoutRedis("names of keys"))("no key of Redis names a chat or what was said", async () => {
    const onRedis = await startChats({ REDIS_ADDRESS: redisUrl ?? "" });
    onTestFinished(() => onRedis.close());
    const chat = await onRedis.chat();
    const viewer = await chat.watch();
    await chat.prompt({ prompt: SECRET, otr: true });
    await chat.prompt({ prompt: "hi", stream: true });
    await viewer.ended("hi");
    viewer.leave();
    const redis = new Redis(redisUrl ?? "");
    const keys = await redis.keys("*");
    redis.disconnect();
    expect(keys.length).toBeGreaterThan(0);
    for (const key of keys) for (const text of [SECRET, chat.id, chat.owner.id, "hi"]) expect(key.split(":")).not.toContain(text);
    expect(keys.join()).not.toContain(chat.id);
    expect(keys.join()).not.toContain(SECRET);
  });
});

describe("limits", () => {
  const MOST = 262_144;
  /** A body of exactly so many bytes. */
  const bodyOf = (id: string, bytes: number, sign = "a") => {
    const rest = bytes - Buffer.byteLength(JSON.stringify({ id, prompt: "" }));
    const prompt = sign.repeat(Math.floor(rest / Buffer.byteLength(sign)));
    return JSON.stringify({ id, prompt: prompt + "a".repeat(rest - Buffer.byteLength(prompt)) });
  };
  test.each(["a", "ä", "🎉", " "])("a body of 256 KiB is taken whole, of %j; one more byte is not", async (sign) => {
    const { id, owner, rows } = await chats.chat();
    const ask = (bytes: number) =>
      chats.app.call("/chat/prompt", { token: owner.token, body: bodyOf(id, bytes, sign), headers: json });
    const answer = await ask(MOST);
    expect(answer.status).toBe(200);
    const prompt = JSON.parse(bodyOf(id, MOST, sign)).prompt;
    expect((await sent(await chats.upstream.waitFor(1))).messages.at(-1)?.content === prompt).toBe(true);
    expect((await rows())[0]?.prompt === prompt).toBe(true);
    expectRefusal(await ask(MOST + 1), 413, "too_large");
    const chunked = new Blob([bodyOf(id, MOST + 1, sign)]).stream();
    const headers = { ...json, authorization: `Bearer ${owner.token}` };
    const init = { method: "POST", headers, body: chunked, duplex: "half" };
    expect((await fetch(`${chats.app.url}/chat/prompt`, init as RequestInit)).status).toBe(413);
    expect(await rows()).toHaveLength(1);
  });

  test.each<[what: string, fields: Record<string, unknown>, code: string]>([
    ["an empty prompt", { prompt: "" }, "invalid_input"],
    ["no prompt", {}, "invalid_input"],
    ["a prompt that is a number", { prompt: 5 }, "invalid_input"],
    ["a prompt in a list", { prompt: ["hi"] }, "invalid_input"],
    ["NUL", { prompt: "a\0b" }, "bad_json"],
    ["half a surrogate pair", { prompt: "a\ud800b" }, "bad_json"],
    ["a context of -1", { prompt: "hi", context: -1 }, "invalid_input"],
    ["a context of 51", { prompt: "hi", context: 51 }, "invalid_input"],
    ["a context of one and a half", { prompt: "hi", context: 1.5 }, "invalid_input"],
    ["a context in words", { prompt: "hi", context: "many" }, "invalid_input"],
    ["otr in words", { prompt: "hi", otr: "maybe" }, "invalid_input"],
    ["stream as a number", { prompt: "hi", stream: 1 }, "invalid_input"],
    ["a message_id that is none", { prompt: "hi", message_id: "1" }, "invalid_input"],
    ["an id that is none", { prompt: "hi", id: "no id" }, "invalid_input"],
  ])("%s is refused, and nobody asked", async (_what, fields, code) => {
    const chat = await chats.chat();
    expectRefusal(await chat.call("/chat/prompt", { id: chat.id, ...fields }), 400, code);
    expect(chats.upstream.requests).toHaveLength(0);
    expect(await chat.rows()).toEqual([]);
  });

  test.each([0, 50])("a context of %i is taken", async (context) => {
    const chat = await chats.chat();
    expect((await chat.prompt({ prompt: "hi", context })).status).toBe(200);
  });

  test("an Idempotency-Key has 1 to 255 characters", async () => {
    const chat = await chats.chat();
    const ask = (key: string) => chat.prompt("hi", undefined, { "idempotency-key": key });
    expect((await ask("x".repeat(255))).status).toBe(200);
    for (const key of ["", "x".repeat(256)]) expectRefusal(await ask(key), 400, "invalid_input");
    expect(await chat.rows()).toHaveLength(1);
  });
});
