import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, createServer, Socket } from "node:net";
import { eq } from "drizzle-orm";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { type Chat, type Chats, chatOf, person, replying, sent, startChats } from "../chat/support.ts";
import { encodings, everyEncoding, expectRefusal } from "../support/answers.ts";
import type { Answer, App, CallOptions, Person } from "../support/app.ts";
import { ask, request } from "../support/raw.ts";
import { faults, type Recorded, type Upstream } from "../support/upstream.ts";
import { replyText } from "../support/upstream-answers.ts";
import { ADDRESS, inline, notImages, PIXELS, PNG, pngOf } from "./pictures.ts";

let chats: Chats;
let app: App;
let upstream: Upstream;
beforeAll(async () => {
  chats = await startChats({ MODEL_ALIASES: "eye=gpt-4o" });
  ({ app, upstream } = chats);
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

const someone = () => person(app.deps.store);
const QUESTION = "What's on this image?";
const ways: [way: string, path: string][] = [
  ["POST /<key>/img", "/trip/img"],
  ["POST /img/<key>/img", "/img/trip/img"],
  ["POST /img", "/img"],
];
const IN_CHAT = "/trip/img";

const about = (by: Person, path: string, fields: object = {}, options: CallOptions = {}): Promise<Answer> =>
  app.call(path, { token: by.token, body: { content: QUESTION, url: ADDRESS, ...fields }, ...options });
/** What is said in somebody's chat "trip". */
const says = (by: Person, content: string) => app.call("/trip/chat", { token: by.token, body: { content } });

const shown = (text: string, url: string) => ({
  role: "user",
  content: [
    { type: "text", text },
    { type: "image_url", image_url: { url } },
  ],
});
const user = (content: string) => ({ role: "user", content });
const reply = { role: "assistant", content: replyText };
const system = (content: string) => ({ role: "system", content });
/** What the model was sent last. */
const lastSent = async ({ requests }: Upstream = upstream) => (await sent(requests.at(-1) as Recorded)).messages;
const holdsImage = (message: unknown) => JSON.stringify(message).includes('"image_url"');
const countOf = (table: "messages" | "images" | "chats") => app.deps.store.db.$count(app.deps.store[table]);

async function keyed({ id }: Person): Promise<string> {
  const { db, chats: table } = app.deps.store;
  const [found] = await db.select().from(table).where(eq(table.ownerId, id));
  return found?.id ?? "";
}
const trip = async (owner: Person): Promise<Chat> => chatOf(app, await keyed(owner), owner);

describe.each(ways)("%s", (_way, path) => {
  test.each(everyEncoding)("answers the reply and its tokens, by %s", async (_encoding, encode) => {
    const me = await someone();
    const { body, headers } = encode({ content: QUESTION, url: ADDRESS });
    const answer = await app.call(path, { token: me.token, body, headers });
    expect({ status: answer.status, json: answer.json }).toEqual({
      status: 200,
      json: {
        content: replyText,
        role: "assistant",
        tokens: { completion_tokens: 12, prompt_tokens: 9, total_tokens: 21 },
      },
    });
    expect(upstream.requests.map(({ method, target }) => `${method} ${target}`)).toEqual(["POST /v1/chat/completions"]);
    expect(await sent(upstream.requests[0] as Recorded)).toEqual({
      model: "gpt-4o-mini",
      stream: true,
      stream_options: { include_usage: true },
      messages: [shown(QUESTION, ADDRESS)],
    });
  });

  test("takes the model that is named, also by another name of it", async () => {
    const me = await someone();
    const answers = [await about(me, path, { model: "o3-mini" }), await about(me, path, { model: "eye" })];
    expect(await Promise.all(upstream.requests.map(async (it) => (await sent(it)).model))).toEqual(["o3-mini", "gpt-4o"]);
    const events = await Promise.all(answers.map((it) => chats.eventOf(it)));
    expect(events.map(({ model }) => model)).toEqual(["o3-mini", "gpt-4o"]);
    expectRefusal(await about(me, path, { model: "two words" }), 400, "invalid_input");
  });

  test("takes IMAGE_MODEL, by another name too, and sends the system prompt first", async () => {
    const own = await startChats({ IMAGE_MODEL: "eye", MODEL_ALIASES: "eye=gpt-4o", DEFAULT_MODEL: "gpt-3.5-turbo" });
    onTestFinished(() => own.close());
    const { token } = await own.app.person();
    const set = (path: string, content: string) => own.app.call(path, { token, body: { content } });
    expect((await set("/system", "Be brief.")).status).toBe(200);
    const asking = { token, body: { content: QUESTION, url: ADDRESS } };
    expect((await own.app.call(path, asking)).status).toBe(200);
    expect((await sent(own.upstream.requests[0] as Recorded)).model).toBe("gpt-4o");
    expect(await lastSent(own.upstream)).toEqual([system("Be brief."), shown(QUESTION, ADDRESS)]);
    if (path === "/img") return;
    expect((await set("/trip/system", "Be a pirate.")).status).toBe(200);
    expect((await own.app.call(path, asking)).status).toBe(200);
    expect(await lastSent(own.upstream)).toEqual([
      system("Be a pirate."),
      ...[shown(QUESTION, ADDRESS), reply],
      shown(QUESTION, ADDRESS),
    ]);
  });

  test("passes the address on byte for byte, and the picture with it", async () => {
    const long = `https://example.com/${"a".repeat(8_192 - 20)}`;
    const odd = `HTTPS://EXAMPLE.com:443/a%2Fb/../%c3%a4?sig=A%2bB+C&x=#"'<>{}|^\`~`;
    const pictures = Object.entries(PIXELS).map(([type, base64]) => inline(type, base64));
    const gif87 = inline("gif", Buffer.from("GIF87a\u0001\0\u0001\0", "latin1").toString("base64"));
    const me = await someone();
    for (const url of [odd, long, ...pictures, gif87])
      for (const encode of Object.values(encodings)) {
        expect((await app.call(path, { token: me.token, ...encode({ content: QUESTION, url }) })).status).toBe(200);
        expect((await lastSent()).at(-1)).toEqual(shown(QUESTION, url));
      }
  });

  test("takes an image of 4 MiB and none that is larger", async () => {
    const me = await someone();
    const most = pngOf(4 * 1024 * 1024);
    for (const encode of Object.values(encodings)) {
      expect((await app.call(path, { token: me.token, ...encode({ content: QUESTION, url: most }) })).status).toBe(200);
      expect((await lastSent()).at(-1)).toEqual(shown(QUESTION, most));
    }
    upstream.reset();
    for (const more of [1, 2, 3, 100_000]) {
      const answer = await about(me, path, { url: pngOf(4 * 1024 * 1024 + more) });
      expectRefusal(answer, 400, "invalid_input");
      expect(answer.json.error.param).toBe("url");
    }
    expect(upstream.requests).toEqual([]);
  });

  test("takes no body of more than 6 MiB, declared or in chunks", async () => {
    const { token } = await someone();
    const most = 6 * 1024 * 1024;
    const head = [`POST ${path} HTTP/1.1`, "Host: a", "Connection: close", `Authorization: Bearer ${token}`];
    const lines = [...head, "Content-Type: application/json"];
    const headersOf = (answer: Awaited<ReturnType<typeof ask>>) => ({ ...answer, headers: new Headers(answer.headers) });
    const declared = await ask(app.url, request([...lines, `Content-Length: ${most + 1}`]));
    expectRefusal(headersOf(declared), 413, "too_large");
    const chunked = request([...lines, "Transfer-Encoding: chunked"]);
    const chunk = (body: string) => `${body.length.toString(16)}\r\n${body}\r\n`;
    const begin = chunk(`{"content":"${"x".repeat(most - 12)}`);
    expectRefusal(headersOf(await ask(app.url, chunked, begin, chunk("x"))), 413, "too_large");
    // What has this size is read, and refused for what it is.
    const whole = `{"content":"${"x".repeat(most - 14)}"}`;
    expectRefusal(headersOf(await ask(app.url, chunked, chunk(whole), "0\r\n\r\n")), 400, "invalid_input");
    expect(upstream.requests).toEqual([]);
  });
});

test.each(notImages)("of an image, %s is refused, and nobody is asked and nothing is stored", async (_what, url) => {
  const me = await someone();
  const before = await Promise.all([countOf("messages"), countOf("images"), countOf("chats")]);
  for (const path of [IN_CHAT, "/img"]) {
    const forms = typeof url === "string" ? everyEncoding : everyEncoding.filter(([name]) => name === "json");
    for (const [, encode] of forms) {
      const answer = await app.call(path, { token: me.token, ...encode({ content: QUESTION, url }) });
      expectRefusal(answer, 400, "invalid_input");
      expect(answer.json.error.param).toBe("url");
    }
  }
  expect(upstream.requests).toEqual([]);
  expect(await Promise.all([countOf("messages"), countOf("images"), countOf("chats")])).toEqual(before);
});

test("no address is ever connected to: it is the upstream's alone to fetch", async () => {
  const target = createServer((socket) => socket.destroy());
  let connections = 0;
  target.on("connection", () => connections++).listen(0, "127.0.0.1");
  await once(target, "listening");
  onTestFinished(() => void target.close());
  const connect = vi.spyOn(Socket.prototype, "connect");
  onTestFinished(() => connect.mockRestore());
  const own = await startChats({ MODERATE: "flag" });
  onTestFinished(() => own.close());
  const me = await person(own.app.deps.store);
  const call = async (path: string, body?: object) => {
    const answer = await own.app.call(path, { token: me.token, ...(body && { body }) });
    expect(answer.status).toBe(200);
    return answer.json;
  };
  const local = `https://127.0.0.1:${(target.address() as AddressInfo).port}/a.png`;
  const addresses = [
    local,
    local.replace("127.0.0.1", "localhost"),
    "https://169.254.169.254/latest/meta-data",
    "https://[::1]/",
  ];
  for (const url of addresses)
    for (const path of ["/img", IN_CHAT]) {
      await call(path, { content: QUESTION, url });
      await call("/trip/chat", { content: "and now?" });
      const { messages } = await call("/chat/read?id=trip");
      if (path === IN_CHAT) expect(await call(`/chat/message/image?id=${messages.at(-2).id}`)).toEqual({ url });
    }
  await call("/trip/chat");
  for (const url of addresses)
    expect(own.upstream.requests.filter(({ body }) => body.includes(JSON.stringify(url))).length).toBeGreaterThan(2);
  const ports = connect.mock.calls.map(([first]) => ([first].flat()[0] as unknown as { port: unknown }).port);
  const known = [own.app.url, own.upstream.url].map((url) => new URL(url).port);
  expect([...new Set(ports.map(String))].sort()).toEqual(known.sort());
  expect(connections).toBe(0);
});

describe("an image becomes a part of its chat", () => {
  test.each([
    ["/trip/chat", "content"],
    ["/chat/prompt", "prompt"],
    ["/chat/trip/v1/chat/completions", "messages"],
  ])("and is sent again in its place by a prompt to %s", async (path, name) => {
    const me = await someone();
    for (const url of [ADDRESS, PNG]) {
      await says(me, "Before it.");
      expect((await about(me, IN_CHAT, { url })).status).toBe(200);
      await says(me, "After it.");
    }
    const asked = name === "messages" ? [user("And now?")] : "And now?";
    const body = { ...(path === "/chat/prompt" && { id: "trip" }), [name]: asked };
    expect((await app.call(path, { token: me.token, body })).status).toBe(200);
    const turns = (url: string) => [user("Before it."), reply, shown(QUESTION, url), reply, user("After it."), reply];
    expect(await lastSent()).toEqual([...turns(ADDRESS), ...turns(PNG), user("And now?")]);
  });

  test("and is shown where the chat is read", async () => {
    const me = await someone();
    await says(me, "Before it.");
    await about(me, IN_CHAT);
    await about(me, IN_CHAT, { url: PNG });
    const [, , { id }] = (await trip(me).then((it) => it.rows())) as [object, object, { id: string }];
    const place = `/chat/message/image?id=${id}`;
    const { json } = await app.call("/trip/chat", { token: me.token });
    const turn = { content: QUESTION, role: "user" };
    const answered = { content: replyText, role: "assistant" };
    const before = { content: "Before it.", role: "user" };
    expect(json).toEqual([before, answered, { ...turn, url: ADDRESS }, answered, { ...turn, url: place }, answered]);
    const read = await (await trip(me)).read();
    expect(read.map(({ image }) => image)).toEqual([null, ADDRESS, place]);
    expect((await app.call(place, { token: me.token })).json).toEqual({ url: PNG });
  });

  test("whose members get it whole, and nobody else does", async () => {
    const chat = await chats.chat(2);
    const [friend, gone] = chat.others as [Person, Person];
    for (const url of [PNG, ADDRESS]) expect((await about(chat.owner, `/${chat.id}/img`, { url })).status).toBe(200);
    await chat.prompt("No image.");
    const [first, second, third] = (await chat.rows()).map(({ id }) => id);
    await chat.call("/chat/user/remove", { chat_id: chat.id, user_ids: [gone.id] });
    for (const by of [chat.owner, friend]) {
      expect((await chat.call(`/chat/message/image?id=${first}`, undefined, by)).json).toEqual({ url: PNG });
      expect((await chat.call("/chat/message/image", { id: second }, by)).json).toEqual({ url: ADDRESS });
      expectRefusal(await chat.call("/chat/message/image", { id: third }, by), 404, "not_found");
    }
    for (const by of [gone, await someone()])
      for (const id of [first, second, third, randomUUID()])
        expectRefusal(await chat.call("/chat/message/image", { id }, by), 404, "not_found");
    expectRefusal(await app.call(`/chat/message/image?id=${first}`), 401, "unauthenticated");
  });

  test("and goes with its message", async () => {
    const me = await someone();
    const before = await countOf("images");
    for (const mark of [1, 2]) await about(me, IN_CHAT, { url: pngOf(100, mark) });
    expect(await countOf("images")).toBe(before + 2);
    const [first, second] = (await (await trip(me)).rows()).map(({ id }) => id);
    expect((await app.call("/chat/message/delete", { token: me.token, body: { id: first } })).status).toBe(200);
    expect(await countOf("images")).toBe(before + 1);
    expect((await app.call("/trip/clear", { token: me.token, body: {} })).status).toBe(200);
    expect(await countOf("images")).toBe(before);
    for (const id of [first, second])
      expectRefusal(await app.call(`/chat/message/image?id=${id}`, { token: me.token }), 404, "not_found");
  });

  test("and is in every frame, with those who watch and in the answer itself", async () => {
    const chat = await chats.chat(1);
    const [friend] = chat.others;
    const viewer = await chat.watch(friend);
    for (const url of [ADDRESS, PNG]) {
      const path = `/${chat.id}/img`;
      const answer = await about(chat.owner, path, { url }, { headers: { accept: "text/event-stream" } });
      expect(answer.headers.get("content-type")).toMatch(/^text\/event-stream/);
      const { id } = (await chat.rows()).at(-1) as { id: string };
      const image = url === PNG ? `/chat/message/image?id=${id}` : url;
      await viewer.ended(id);
      const told = [...answer.text.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data as string));
      const heard = viewer.heard
        .map(({ data }) => data as { message?: { id: string } })
        .filter(({ message }) => message?.id === id);
      for (const frames of [told, heard]) {
        expect(frames.length).toBeGreaterThan(2);
        for (const { message } of frames) expect(message).toMatchObject({ id, image, prompt: QUESTION });
        expect(frames.at(-1)).toMatchObject({ message: { reply: replyText }, partial: false });
      }
    }
    viewer.leave();
  });

  test("of those that were sent along inline, the newest four go with a prompt; what was said of the others does, too", async () => {
    const me = await someone();
    const urls = [1, 2, 3, 4, 5, 6].map((mark) => pngOf(100, mark));
    for (const url of urls.slice(0, 3)) await about(me, IN_CHAT, { url });
    await about(me, IN_CHAT);
    for (const url of urls.slice(3)) await about(me, IN_CHAT, { url });
    await says(me, "And now?");
    const withImage = [urls[2] as string, ADDRESS, ...urls.slice(3)].flatMap((url) => [shown(QUESTION, url), reply]);
    expect(await lastSent()).toEqual([user(QUESTION), reply, user(QUESTION), reply, ...withImage, user("And now?")]);
  });
});

describe("an upstream that refuses images", () => {
  const refusing = ({ messages }: { messages: unknown[] }) => messages.slice(0, -1).some(holdsImage);
  const no = faults.status(400, { error: { code: "invalid_image_url", message: "Timeout while downloading." } });

  test("is asked once more without the earlier ones", async () => {
    const me = await someone();
    for (const url of [ADDRESS, PNG]) await about(me, IN_CHAT, { url });
    upstream.reset();
    upstream.when(async (recorded) => refusing(await sent(recorded)), no);
    expect((await says(me, "And now?")).json).toMatchObject({ content: replyText });
    const [first, second] = await Promise.all(upstream.requests.map(async (it) => (await sent(it)).messages));
    expect(first).toEqual([shown(QUESTION, ADDRESS), reply, shown(QUESTION, PNG), reply, user("And now?")]);
    expect(second).toEqual([user(QUESTION), reply, user(QUESTION), reply, user("And now?")]);
    expect((await about(me, IN_CHAT, { content: "And this?" })).json).toMatchObject({ content: replyText });
    const text = [user(QUESTION), reply, user(QUESTION), reply, user("And now?"), reply];
    expect(await lastSent()).toEqual([...text, shown("And this?", ADDRESS)]);
    expect(upstream.requests).toHaveLength(4);
  });

  test("is asked only once where there are none, or none had room", async () => {
    const own = await startChats({ MAX_TOKENS: "100" });
    onTestFinished(() => own.close());
    const { token } = await person(own.app.deps.store);
    const say = (path: string, body: object) => own.app.call(path, { token, body });
    own.upstream.when(async (recorded) => (await sent(recorded)).messages.at(-1)?.content === "And now?", no);
    expectRefusal(await say("/trip/chat", { content: "And now?" }), 502, "upstream_refused");
    expect((await say(IN_CHAT, { content: QUESTION, url: ADDRESS })).status).toBe(200);
    own.upstream.requests.length = 0;
    expectRefusal(await say("/trip/chat", { content: "And now?" }), 502, "upstream_refused");
    expect(await Promise.all(own.upstream.requests.map(async (it) => (await sent(it)).messages))).toEqual([[user("And now?")]]);
  });

  test("is left alone where it is at its limit, and the answer says for how long", async () => {
    upstream.when(() => true, faults.status(429, "", { "retry-after": "30" }));
    const me = await someone();
    for (const path of [IN_CHAT, "/img"]) {
      const answer = await about(me, path);
      expectRefusal(answer, 503, "upstream_busy");
      expect(answer.headers.get("retry-after")).toBe("30");
    }
    expect(upstream.requests).toHaveLength(2);
  });

  test("fails the prompt that has one, which is in no context then", async () => {
    const me = await someone();
    await says(me, "Before it.");
    upstream.reset();
    upstream.when(async (recorded) => holdsImage((await sent(recorded)).messages), no);
    for (const path of [IN_CHAT, "/img"]) expectRefusal(await about(me, path), 502, "upstream_refused");
    expect(upstream.requests).toHaveLength(2);
    const [, row] = await (await trip(me)).rows();
    expect(row).toMatchObject({ state: "failed", reply: "", image: ADDRESS, contextTokens: null, errorCode: "upstream_refused" });
    expect((await says(me, "And now?")).status).toBe(200);
    expect(await lastSent()).toEqual([user("Before it."), reply, user("And now?")]);
  });
});

test.each([
  ["addresses", ADDRESS, "https://example.com/b.png"],
  ["inline images", pngOf(100, 1), pngOf(100, 2)],
])("one message_id is one prompt, and refused for another: of %s", async (_what, url, other) => {
  const me = await someone();
  const message_id = randomUUID();
  const atOnce = await Promise.all(Array.from({ length: 5 }, () => about(me, IN_CHAT, { url, message_id })));
  const answers = [...atOnce, await about(me, IN_CHAT, { url, message_id })];
  expect(answers.map(({ status, text }) => `${status} ${text}`)).toEqual(Array(6).fill(`200 ${answers[0]?.text}`));
  expect(answers[0]?.json.content).toBe(replyText);
  expect(upstream.requests).toHaveLength(1);
  for (const fields of [{ url: other }, { url, content: "Another question" }, { url, model: "o3-mini" }])
    expectRefusal(await about(me, IN_CHAT, { ...fields, message_id }), 422, "idempotency_mismatch");
  expectRefusal(
    await app.call("/trip/chat", { token: me.token, body: { content: QUESTION, message_id } }),
    422,
    "idempotency_mismatch",
  );
  expect(upstream.requests).toHaveLength(1);
  expect(await (await trip(me)).rows()).toHaveLength(1);
});

describe("the event of an image", () => {
  test.each([
    ["img.converse", IN_CHAT],
    ["img.describe", "/img"],
  ])("%s has the model, the tokens and the upstream's id, also where it is refused", async (endpoint, path) => {
    const me = await someone();
    upstream.next(replying("A cat."));
    const answer = await about(me, path);
    const event = await chats.eventOf(answer);
    const known = { endpoint, userId: me.id, upstreamRequestId: upstream.requests[0]?.id };
    const tokens = { promptTokens: 9, completionTokens: 12, tokensEstimated: false };
    expect(event).toMatchObject({ ...known, ...tokens, status: 200, model: "gpt-4o-mini-2024-07-18" });
    expect(JSON.parse(event.requestBody ?? "")).toMatchObject({ content: QUESTION, url: ADDRESS });
    expect(JSON.parse(event.responseBody ?? "")).toEqual(answer.json);
    upstream.reset();
    upstream.next(faults.status(400, { error: { code: "no" } }));
    const failed = await chats.eventOf(await about(await someone(), path));
    const { id: upstreamRequestId } = upstream.requests[0] as Recorded;
    expect(failed).toMatchObject({ endpoint, status: 502, model: "gpt-4o-mini", upstreamRequestId });
    expect(JSON.stringify(chats.lines)).not.toContain("example.com");
  });

  test.each([IN_CHAT, "/img"])("keeps LOG_BODY_BYTES of the body, of %s", async (path) => {
    const own = await startChats({ LOG_BODY_BYTES: "1000" });
    onTestFinished(() => own.close());
    const { token } = await person(own.app.deps.store);
    const url = pngOf(100_000);
    const { requestBody } = await own.eventOf(await own.app.call(path, { token, body: { content: QUESTION, url } }));
    expect(requestBody).toHaveLength(1_000);
    expect(requestBody).toContain(`"url":"${url.slice(0, 100)}`);
  });

  test.each([IN_CHAT, "/img"])("of %s keeps no address or question of the query, where both are refused", async (path) => {
    const me = await someone();
    const secret = "https%3A%2F%2Fexample.com%2Fswordfish";
    for (const [query, param] of [
      [`url=${secret}&content=x`, "url"],
      [`content=swordfish&stream=false`, "content"],
      [`stream=false&url=${secret}`, "url"],
    ] as const) {
      const answer = await app.call(`${path}?${query}`, { token: me.token, body: {} });
      expectRefusal(answer, 400, "invalid_input");
      expect(answer.json.error.param).toBe(param);
      const event = await chats.eventOf(answer);
      expect(event.query).toContain(`${param}=`);
      expect(JSON.stringify(event)).not.toContain("swordfish");
    }
    expect(JSON.stringify(chats.lines)).not.toContain("swordfish");
    expect(upstream.requests).toEqual([]);
  });
});
