import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Chat, type Chats, startChats } from "../chat/support.ts";
import { channels, everyChannel, expectOurs, expectRefusal } from "../support/answers.ts";
import type { Person } from "../support/app.ts";
import { replyText } from "../support/upstream-answers.ts";
import { asking, collect, failureOf, openaiAt, textOf } from "./openai.ts";

const LISTED = "https://app.example.com";
const FOREIGN = "https://evil.example";

let chats: Chats;
let stranger: Person;
beforeAll(async () => {
  chats = await startChats({ ALLOWED_ORIGINS: LISTED });
  stranger = await chats.app.person();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

const model = "gpt-4o";
const calls: [what: string, call: (client: OpenAI) => Promise<unknown>][] = [
  ["a completion", (client) => client.chat.completions.create({ model, messages: asking("hi") })],
  ["a stream", async (client) => collect(await client.chat.completions.create({ model, messages: asking("hi"), stream: true }))],
  ["the models", (client) => collect(client.models.list())],
];

/** Nothing was asked of the model, and nothing said in the chat. */
async function untouched(chat: Chat): Promise<void> {
  expect(chats.upstream.requests).toEqual([]);
  expect(await chat.rows()).toEqual([]);
}

describe.each(calls)("%s", (_, call) => {
  test("is for the owner, the people of the chat, and the members of its group", async () => {
    const chat = await chats.chat(1);
    const group = await chats.app.call("/group/create", { token: chat.owner.token, body: { name: "Team" } });
    const members = { group_id: group.json.id, user_ids: [stranger.id] };
    await chats.app.call("/group/members/add", { token: chat.owner.token, body: members });
    const made = await chats.app.call("/chat/create", { token: chat.owner.token, body: { group_id: group.json.id } });
    for (const person of [chat.owner, ...chat.others]) await call(openaiAt(chats, chat, person));
    for (const person of [chat.owner, stranger]) await call(openaiAt(chats, { ...chat, id: made.json.id }, person));
    expect(chats.upstream.requests).toHaveLength(4);
  });

  test("is of a chat that a stranger cannot tell from none", async () => {
    const chat = await chats.chat();
    const absent = { ...chat, id: "01a2008f-95ab-7ad8-85b8-356084fb3563" };
    const errors = [
      await failureOf(call(openaiAt(chats, chat, stranger))),
      await failureOf(call(openaiAt(chats, absent, stranger))),
      await failureOf(call(openaiAt(chats, absent))),
    ];
    for (const error of errors) {
      expect(error).toBeInstanceOf(OpenAI.NotFoundError);
      const { request_id, ...rest } = error.error as Record<string, unknown>;
      expect(rest).toMatchObject({ code: "not_found", type: "not_found_error", param: null, source: "gateway" });
      expect(request_id).toMatch(/^[0-9a-f-]{36}$/);
    }
    expect(new Set(errors.map(({ message }) => message)).size).toBe(1);
    await untouched(chat);
  });

  test("ends with membership", async () => {
    const chat = await chats.chat(1);
    const [member] = chat.others as [Person];
    await call(openaiAt(chats, chat, member));
    const removed = await chat.call("/chat/user/remove", { chat_id: chat.id, user_ids: [member.id] });
    expect(removed.status).toBe(200);
    const [asked, rows] = [chats.upstream.requests.length, (await chat.rows()).length];
    expect(await failureOf(call(openaiAt(chats, chat, member)))).toBeInstanceOf(OpenAI.NotFoundError);
    expect([chats.upstream.requests.length, (await chat.rows()).length]).toEqual([asked, rows]);
  });

  test("needs a token that is one", async () => {
    const chat = await chats.chat();
    for (const apiKey of ["sk-something", `${chat.owner.token}x`, "null"]) {
      const error = await failureOf(call(openaiAt(chats, chat, chat.owner, { apiKey })));
      expect(error).toBeInstanceOf(OpenAI.AuthenticationError);
      expect(error).toMatchObject({ status: 401, code: "unauthenticated" });
    }
    await untouched(chat);
  });

  test("takes an API key, as clients keep one", async () => {
    const chat = await chats.chat();
    const made = await chats.app.call("/user/key/create", { token: chat.owner.token, body: { label: "client" } });
    expect(made.json.token).toMatch(/^pgk_/);
    await call(openaiAt(chats, chat, chat.owner, { apiKey: made.json.token }));
    expect(chats.upstream.requests).toHaveLength(1);
  });

  test("works from a page of any origin with a bearer, as a browser sends it", async () => {
    const chat = await chats.chat();
    for (const origin of [LISTED, FOREIGN]) {
      const defaultHeaders = { origin, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors" };
      await call(openaiAt(chats, chat, chat.owner, { defaultHeaders }));
    }
    expect(chats.upstream.requests).toHaveLength(2);
  });
});

describe("without the client", () => {
  const ask = (chat: Chat, headers: Record<string, string>, stream = false) =>
    chats.app.call(`/chat/${chat.id}/v1/chat/completions`, { body: { model, messages: asking("hi"), stream }, headers });

  test.each(everyChannel)("%s says who it is", async (_, present) => {
    const chat = await chats.chat();
    const whole = await ask(chat, present(chat.owner));
    expect(whole.status).toBe(200);
    expectOurs(whole);
    expect(whole.json.choices[0].message.content).toBe(replyText);
    const streamed = await ask(chat, present(chat.owner), true);
    expect(streamed.headers.get("content-type")).toBe("text/event-stream");
    expectOurs(streamed);
    const events = streamed.text.split("\n\n");
    expect(events.slice(-2)).toEqual(["data: [DONE]", ""]);
    const chunks = events.slice(0, -2).map((it) => JSON.parse(it.replace(/^data: /, "")));
    expect(textOf(chunks)).toBe(replyText);
    expectRefusal(await ask(chat, present({ ...stranger, username: stranger.username })), 404, "not_found");
    expect((await chat.rows()).map(({ userId }) => userId)).toEqual([chat.owner.id, chat.owner.id]);
  });

  test("nobody is let in, not by a token in the query either", async () => {
    const chat = await chats.chat();
    expectRefusal(await ask(chat, {}), 401, "unauthenticated");
    const path = `/chat/${chat.id}/v1/chat/completions?token=${chat.owner.token}`;
    expectRefusal(await chats.app.call(path, { body: { model, messages: asking("hi") } }), 401, "unauthenticated");
    expectRefusal(await chats.app.call(`/chat/${chat.id}/v1/models`), 401, "unauthenticated");
    await untouched(chat);
  });

  test.each(["cookie", "basic"] as const)("a foreign page that has a browser send its %s is refused", async (channel) => {
    const chat = await chats.chat();
    const present = channels[channel](chat.owner);
    const pages = [
      { origin: FOREIGN, "sec-fetch-site": "cross-site" },
      { origin: FOREIGN },
      { origin: "null" },
      { "sec-fetch-site": "cross-site" },
      { "sec-fetch-site": "same-site" },
    ];
    for (const page of pages)
      for (const stream of [false, true])
        expectRefusal(await ask(chat, { ...present, ...page } as Record<string, string>, stream), 403, "origin_refused");
    await untouched(chat);
    for (const page of [{ origin: LISTED, "sec-fetch-site": "cross-site" }, { "sec-fetch-site": "same-origin" }] as Record<
      string,
      string
    >[]) {
      const answer = await ask(chat, { ...present, ...page }, true);
      expect(answer.status).toBe(200);
      expectOurs(answer, page.origin ?? "*");
      expect(answer.headers.get("access-control-allow-credentials")).toBe(page.origin ? "true" : null);
    }
  });

  test("a page may ask first what it may send", async () => {
    const chat = await chats.chat();
    const names = "authorization,content-type,x-stainless-lang,x-stainless-retry-count";
    const headers = { origin: FOREIGN, "access-control-request-method": "POST", "access-control-request-headers": names };
    const answer = await chats.app.call(`/chat/${chat.id}/v1/chat/completions`, { method: "OPTIONS", headers });
    expect(answer.status).toBe(204);
    expect(answer.headers.get("access-control-allow-methods")).toBe("POST, OPTIONS");
    expect(answer.headers.get("access-control-allow-headers")).toBe(names);
  });

  test("a chat id that is none, another method and another path are refused as everywhere", async () => {
    const chat = await chats.chat();
    const present = channels.bearer(chat.owner);
    const body = { model, messages: asking("hi") };
    const at = (path: string, method = "POST") =>
      chats.app.call(path, { method, headers: present, ...(method === "POST" && { body }) });
    expectRefusal(await at("/chat/no%20id/v1/chat/completions"), 400, "invalid_input");
    expectRefusal(await at("/chat/nothing/v1/chat/completions"), 404, "not_found");
    expectRefusal(await at(`/chat/${chat.id}/v1/chat/completions`, "GET"), 405, "method_not_allowed");
    expectRefusal(await at(`/chat/${chat.id}/v1/chat/completions/`), 404, "not_found");
    expectRefusal(await at(`/chat/${chat.id}/v1/embeddings`), 404, "not_found");
    expectRefusal(await at(`/chat/${chat.id}/v1/models/gpt-4o`, "GET"), 404, "not_found");
    await untouched(chat);
  });
});
