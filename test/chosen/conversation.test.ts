import { randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { functions } from "../../functions/all.ts";
import { answerEach, type Chats, modelFor, replying, sent, startChats } from "../chat/support.ts";
import { encodings, expectOurs, expectRefusal } from "../support/answers.ts";
import type { Answer } from "../support/app.ts";
import { faults } from "../support/upstream.ts";
import { replyText } from "../support/upstream-answers.ts";
import { type Asker, asker, IMAGE, must } from "./asker.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

type Turn = { content: string; role: string };
const user = (content: string): Turn => ({ content, role: "user" });
const assistant = (content: string): Turn => ({ content, role: "assistant" });
const pairs = (prompts: readonly string[]) => prompts.flatMap((it) => [user(it), assistant(`re: ${it}`)]);
const messagesOf = async (by: Asker, id: string) => (await must(by.get(`/chat/read?id=${id}&limit=1000`))).messages;

/** One function, in front of the scripted upstream. */
async function alone(name: string): Promise<Chats> {
  const served = await startChats({}, { functions: functions.filter((it) => it.name === name) });
  onTestFinished(() => served.close());
  return served;
}
const TOKENS = { completion_tokens: 12, prompt_tokens: 9, total_tokens: 21 };
const REPLY = { content: replyText, role: "assistant", tokens: TOKENS };

describe("the paths of a chat are the same", () => {
  /** Says, reads, sets, shows and clears, as far as the functions are there, and answers the statuses. */
  async function tour(by: Asker, of: string, at: (name: string) => string) {
    if (of === "chat") {
      expect(await must(by.post(at("chat"), { content: "hi" }))).toEqual(REPLY);
      expect(await must(by.get(at("chat")))).toEqual([user("hi"), assistant(replyText)]);
      expect(await must(by.post(at("clear")))).toEqual({});
      expectRefusal(await by.get(at("chat")), 404, "not_found");
    } else if (of === "system") {
      expect(await must(by.post(at("system"), { content: "Be brief." }))).toEqual({});
      expect(await must(by.get(at("system")))).toEqual({ content: "Be brief." });
    } else expect(await must(by.post(at("img"), { content: "What is this?", url: IMAGE }))).toEqual(REPLY);
  }

  test.each(["chat", "system", "img"])("of the function %s: short, long, and alone without its name in front", async (of) => {
    const ana = await asker(chats);
    await tour(ana, of, (path) => `/demo/${path}`);
    await tour(ana, of, (path) => `/${of}/demo/${path}`);
    expect((await must(ana.get("/chat/index"))).chats).toMatchObject([{ key: "demo" }]);
    const served = await alone(of);
    const ben = await asker(served);
    await tour(ben, of, (path) => `/demo/${path}`);
    await tour(ben, of, (path) => `/${of}/demo/${path}`);
    const { db, chats: table } = served.app.deps.store;
    expect(await db.select().from(table)).toMatchObject([{ key: "demo", ownerId: ben.id }]);
    for (const other of ["chat", "system", "img"].filter((it) => it !== of)) {
      expectRefusal(await ben.post(`/demo/${other}`, { content: "hi", url: IMAGE }), 404, "not_found");
      expectRefusal(await ben.get(`/${other}/demo/${other}`), 404, "not_found");
    }
  });

  test("and no other function answers them", async () => {
    const ana = await asker(chats);
    for (const path of ["/system/demo/chat", "/img/demo/chat", "/chat/demo/system", "/mod/demo/chat", "/demo/mod", "/chat/demo"])
      for (const answer of [await ana.get(path), await ana.post(path, { content: "hi" })])
        expectRefusal(answer, 404, "not_found");
    for (const [path, allow] of [
      ["/demo/chat", "GET, POST, HEAD, OPTIONS"],
      ["/demo/system", "GET, POST, HEAD, OPTIONS"],
      ["/demo/img", "POST, OPTIONS"],
      ["/demo/clear", "POST, OPTIONS"],
    ] as const) {
      const answer = await chats.app.call(path, { token: ana.token, method: "DELETE" });
      expectRefusal(answer, 405, "method_not_allowed");
      expect(answer.headers.get("allow")?.split(", ").sort()).toEqual(allow.split(", ").sort());
    }
    expect((await must(ana.get("/chat/index"))).chats).toEqual([]);
  });

  test("the function system alone greets at its root who does not say who they are, and else is the global prompt", async () => {
    const served = await alone("system");
    const admin = await asker(served);
    const { db, users } = served.app.deps.store;
    await db.update(users).set({ admin: true });
    const ben = await asker(served);
    for (const at of ["/", "/system"]) {
      expect(await must(admin.post(at, { content: `set at ${at}` }))).toEqual({});
      for (const from of ["/", "/system", "/system/demo/system", "/demo/system"])
        for (const by of [admin, ben]) expect(await must(by.get(from))).toEqual({ content: `set at ${at}` });
      expectRefusal(await ben.post(at, { content: "mine" }), 403, "forbidden");
      expectRefusal(await served.app.call(at, { body: { content: "nobody's" } }), 401, "unauthenticated");
    }
    expectRefusal(await served.app.call("/", { token: "pgs_not-a-token" }), 401, "unauthenticated");
    expectRefusal(await served.app.call("/system"), 401, "unauthenticated");
    expect(await served.app.call("/")).toMatchObject({ status: 200, text: "Hello, World!" });
  });

  test("the function mod alone answers at its root and by its name", async () => {
    const served = await alone("mod");
    const ana = await asker(served);
    for (const at of ["/", "/mod"]) {
      const { id, model, results } = await must(ana.post(at, { content: "I will kill you" }));
      expect({ id, model, results }).toMatchObject({
        id: "modr-1",
        model: "omni-moderation-latest",
        results: [{ flagged: true }],
      });
      expect((await must(ana.post(at, { content: "hi" }))).results[0].flagged).toBe(false);
      expectRefusal(await served.app.call(at, { body: { content: "hi" } }), 401, "unauthenticated");
      expect(await ana.get(at)).toMatchObject({ status: 200, text: "Hello, World!" });
    }
    expect((await must((await asker(chats)).post("/mod", { content: "hi" }))).results).toHaveLength(1);
  });

  test.each(functions.map(({ name }) => name))(
    "the function %s alone greets in HTML and tells its health in JSON",
    async (name) => {
      const served = await alone(name);
      for (const path of ["/", `/${name}/`]) {
        const greeting = await served.app.call(path);
        expect(greeting).toMatchObject({ status: 200, text: "Hello, World!" });
        expect(greeting.headers.get("content-type")).toMatch(/^text\/html\b/);
        expectOurs(greeting);
      }
      for (const path of ["/health", `/${name}/health`]) {
        const health = await served.app.call(path);
        expect(health.headers.get("content-type")).toBe("application/json");
        expect(health).toMatchObject({ status: 200, json: { status: "ok", store: { up: true }, bus: { up: true } } });
      }
    },
  );
});

describe("GET /<key>/chat", () => {
  test("lists what was said in its order, what was shown with its address, and nothing but that", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const ana = await asker(chats);
    for (const content of ["one", "two"]) await must(ana.post("/demo/chat", { content }));
    chats.upstream.next(replying("a cat"));
    await must(ana.post("/demo/img", { content: "What is this?", url: IMAGE }));
    await must(ana.post("/chat/prompt", { id: "demo", prompt: "three" }));
    const shown = [{ ...user("What is this?"), url: IMAGE }, assistant("a cat")];
    for (const path of ["/demo/chat", "/chat/demo/chat"]) {
      const answer = await ana.get(path);
      expect(answer.json).toEqual([...pairs(["one", "two"]), ...shown, ...pairs(["three"])]);
      expect(answer.headers.get("link")).toBeNull();
      expectOurs(answer);
    }
    expect(await chats.app.call("/demo/chat", { token: ana.token, method: "HEAD" })).toMatchObject({ status: 200, text: "" });
  });

  test("is 404 where there is no chat, nothing was said, or it was cleared", async () => {
    const ana = await asker(chats);
    const absent = await ana.get("/demo/chat");
    expectRefusal(absent, 404, "not_found");
    await must(ana.post("/demo/system", { content: "Be brief." }));
    expectRefusal(await ana.get("/demo/chat"), 404, "not_found");
    await must(ana.post("/demo/chat", { content: "hi" }));
    expect((await ana.get("/demo/chat")).status).toBe(200);
    await must(ana.post("/demo/clear"));
    expectRefusal(await ana.get("/demo/chat"), 404, "not_found");
  });

  test("shows what was said off the record as the user's, and a reply that failed as far as it came", async () => {
    const ana = await asker(chats);
    await must(ana.post("/demo/chat", { content: "hi" }));
    await must(ana.post("/chat/prompt", { id: "demo", prompt: "between us", otr: true }));
    chats.upstream.next(faults.status(400, { error: { code: "no" } }));
    expectRefusal(await ana.post("/demo/chat", { content: "refused" }), 502, "upstream_refused");
    chats.upstream.next(faults.resetMidStream(3));
    expectRefusal(await ana.post("/demo/chat", { content: "cut" }), 502, "upstream_reset");
    const model = modelFor(chats.upstream, "running");
    const running = ana.post("/demo/chat", { content: "running" });
    await model.asked;
    const listed = await must(ana.get("/demo/chat"));
    model.end();
    await running;
    const { reply } = (await messagesOf(ana, "demo"))[3];
    expect(reply).not.toBe("");
    const before = [user("hi"), assistant(replyText), user("between us"), user("refused")];
    expect(listed).toEqual([...before, user("cut"), assistant(reply), user("running")]);
    const event = await chats.eventOf(await ana.get("/demo/chat"));
    expect(event).toMatchObject({ endpoint: "chat.conversation", status: 200, requestBody: null, responseBody: null });
  });

  /** Everything that the pages hold, the oldest first, by the `Link` of each to the one before it. */
  async function byLinks(
    by: Asker,
    first: string,
    between = async (_page: number) => {},
  ): Promise<{ turns: Turn[]; pages: number }> {
    let turns: Turn[] = [];
    let at: string | null = first;
    let pages = 0;
    while (at !== null) {
      const answer: Answer = await by.get(at);
      if (answer.status !== 200 || pages > 300) throw new Error(`${at}: ${answer.status}`);
      turns = [...answer.json, ...turns];
      const link: string | null = answer.headers.get("link");
      const [, reference] = /^<(\?[^>]*)>; rel="next"$/.exec(link ?? "") ?? [];
      if (link !== null && reference === undefined) throw new Error(link);
      await between(++pages);
      const next: URL | null = reference === undefined ? null : new URL(reference, chats.app.url + at);
      at = next && next.pathname + next.search;
    }
    return { turns, pages };
  }

  // Hundreds of prompts, each of which the disk has to confirm, and hundreds of pages.
  const slow = { timeout: 60_000 };
  test("leads by its Link header through 250 messages without loss or doubling, however many at once", slow, async () => {
    const ana = await asker(chats);
    await must(ana.post("/long/chat", { content: "the first" }));
    const said = Array.from({ length: 248 }, (_, n) => `aside ${n}`);
    await Promise.all(said.map((prompt) => must(ana.post("/chat/prompt", { id: "long", prompt, otr: true }))));
    await must(ana.post("/long/chat", { content: "the last" }));
    const stored = await messagesOf(ana, "long");
    expect(new Set(stored.map(({ prompt }: { prompt: string }) => prompt)).size).toBe(250);
    const expected = stored.flatMap(({ prompt, reply }: { prompt: string; reply: string }) =>
      reply === "" ? [user(prompt)] : [user(prompt), assistant(reply)],
    );
    for (const [query, pages] of [
      ["", 1],
      ["?limit=1", 250],
      ["?limit=7", 36],
      ["?limit=125", 2],
      ["?limit=249", 2],
      ["?limit=250", 1],
      ["?limit=1000", 1],
    ] as const)
      for (const path of pages > 100 ? ["/long/chat"] : ["/long/chat", "/chat/long/chat"])
        expect(await byLinks(ana, `${path}${query}`)).toEqual({ turns: expected, pages });
    const meanwhile = async () => void (await must(ana.post("/chat/prompt", { id: "long", prompt: "later", otr: true })));
    expect(await byLinks(ana, "/long/chat?limit=100", meanwhile)).toEqual({ turns: expected, pages: 3 });
  });

  test("tells pages of other origins of the Link, which is relative and keeps what was asked", async () => {
    const ana = await asker(chats);
    for (const prompt of ["one", "two"]) await must(ana.post("/demo/chat", { content: prompt }));
    const answer = await ana.get("/demo/chat?limit=1", { origin: "https://elsewhere.example" });
    expect(answer.headers.get("link")).toBe('<?limit=1&cursor=2>; rel="next"');
    expect(answer.headers.get("access-control-expose-headers")?.split(", ")).toContain("link");
    for (const query of [
      "limit=0",
      "limit=1001",
      "limit=x",
      "limit=1.5",
      "cursor=-1",
      "cursor=a",
      "cursor=",
      "cursor=1&cursor=2",
    ])
      expectRefusal(await ana.get(`/demo/chat?${query}`), 400, "invalid_input");
    expectRefusal(await ana.get("/demo/chat?cursor=1"), 404, "not_found");
  });
});

describe("POST /<key>/chat", () => {
  test("answers the reply with the tokens that the upstream counted, by JSON and by form", async () => {
    const ana = await asker(chats);
    for (const encode of [encodings.json, encodings.form]) {
      const { body, headers } = encode({ content: "tell me & you = 100%" });
      chats.upstream.next(replying("Hello", { prompt_tokens: 1_234, completion_tokens: 56, total_tokens: 1_290 }));
      const answer = await chats.app.call("/demo/chat", { body, headers: { ...headers, authorization: `Bearer ${ana.token}` } });
      const tokens = { completion_tokens: 56, prompt_tokens: 1_234, total_tokens: 1_290 };
      expect([answer.status, answer.json]).toEqual([200, { content: "Hello", role: "assistant", tokens }]);
    }
    const stored = await messagesOf(ana, "demo");
    expect(stored).toMatchObject(
      [1, 2].map((seq) => ({ seq, prompt: "tell me & you = 100%", prompt_tokens: 1_234, completion_tokens: 56, state: "done" })),
    );
  });

  test("takes a model for this prompt and how much of the memory goes with it", async () => {
    const ana = await asker(chats);
    await must(ana.post("/demo/chat", { content: "one" }));
    await must(ana.post("/demo/chat", { content: "two", model: "o3-mini", context: 0 }));
    await must(ana.post("/demo/chat", { content: "three" }));
    const bodies = await Promise.all(chats.upstream.requests.map(sent));
    expect(bodies.map(({ model, messages }) => [model, messages.length])).toEqual([
      ["gpt-4o-mini", 1],
      ["o3-mini", 1],
      ["gpt-4o-mini", 5],
    ]);
  });

  test("streams the same frames as /chat/prompt where events are preferred", async () => {
    const ana = await asker(chats);
    await must(ana.post("/demo/system", { content: "Be brief." }));
    const streamed = async (path: string, body: Record<string, unknown>) => {
      chats.upstream.next(replying("Hello"));
      const answer = await ana.post(path, body, { accept: "text/event-stream" });
      expect(answer.headers.get("content-type")).toMatch(/^text\/event-stream\b/);
      const { id } = (await messagesOf(ana, "demo")).at(-1);
      expect(answer.text).toContain(id);
      return answer.text
        .replaceAll(id, "ID")
        .split("\n\n")
        .filter((frame) => frame.startsWith("data: "));
    };
    const frames = await streamed("/demo/chat", { content: "hi" });
    const said = frames.map((frame) => JSON.parse(frame.slice(6)));
    const whole = { message: { id: "ID", user_id: ana.id, prompt: "hi", reply: "Hello" }, partial: false };
    expect(said[0]).toMatchObject({ message: { reply: "" }, partial: true });
    expect(said.at(-1)).toEqual(whole);
    expect(await streamed("/chat/prompt", { id: "demo", prompt: "hi" })).toEqual(frames);
  });

  test.each(["message_id", "idempotency-key"])(
    "by one %s is one prompt, also the first of a chat, ten times at once",
    async (by) => {
      const ana = await asker(chats);
      const id = randomUUID();
      const say = (content: string, path = "/demo/chat") =>
        by === "message_id" ? ana.post(path, { content, message_id: id }) : ana.post(path, { content }, { [by]: id });
      const answers = await Promise.all(
        Array.from({ length: 10 }, (_, n) => say("hi", n % 2 ? "/demo/chat" : "/chat/demo/chat")),
      );
      expect(answers.map(({ status, json }) => [status, json])).toEqual(answers.map(() => [200, REPLY]));
      expect(chats.upstream.requests).toHaveLength(1);
      expect(await messagesOf(ana, "demo")).toMatchObject([{ seq: 1, prompt: "hi", ...(by === "message_id" && { id }) }]);
      expectRefusal(await say("ho"), 422, "idempotency_mismatch");
      if (by === "message_id") expectRefusal(await say("hi", "/other/chat"), 409, "message_id_taken");
      else expect(await must(say("hi", "/other/chat"))).toEqual(REPLY);
      const [message] = await messagesOf(ana, "demo");
      const same = { id: "demo", prompt: "hi", ...(by === "message_id" && { message_id: id }) };
      expect((await must(ana.post("/chat/prompt", same, by === "message_id" ? {} : { [by]: id }))).message).toEqual(message);
    },
  );

  test.each([
    ["refuses", () => faults.status(400, { error: { code: "no" } }), 502, "upstream_refused"],
    ["breaks off", () => faults.resetMidStream(3), 502, "upstream_reset"],
  ] as const)("fails with its status where the upstream %s, and so does the message", async (_how, fault, status, code) => {
    const ana = await asker(chats);
    chats.upstream.next(fault());
    expectRefusal(await ana.post("/demo/chat", { content: "hi" }), status, code);
    expect(await messagesOf(ana, "demo")).toMatchObject([{ state: "failed", error_code: code }]);
    chats.upstream.next(faults.resetMidStream(3));
    const heard = await ana.post("/demo/chat", { content: "hi" }, { accept: "text/event-stream" });
    expect(heard.text).toMatch(/event: failed\ndata: .*"upstream_reset"/);
    expect(await must(ana.post("/demo/chat", { content: "hi" }))).toEqual(REPLY);
  });

  test("keeps the event that a prompt has: the chat, the model, the tokens and both bodies", async () => {
    const ana = await asker(chats);
    const expected = {
      userId: ana.id,
      status: 200,
      errorCode: null,
      promptTokens: 9,
      completionTokens: 12,
      model: "gpt-4o-mini",
    };
    const said = await ana.post("/demo/chat", { content: "hi" });
    const { id: chatId } = (await must(ana.get("/chat/read?id=demo"))).chat;
    const event = await chats.eventOf(said);
    expect(event).toMatchObject({ ...expected, endpoint: "chat.converse", path: "/demo/chat", chatId, tokensEstimated: false });
    expect(JSON.parse(event.requestBody ?? "")).toMatchObject({ chat_id: "demo", content: "hi" });
    expect(JSON.parse(event.responseBody ?? "")).toEqual(REPLY);
    const shown = await chats.eventOf(await ana.post("/img/demo/img", { content: "hi", url: IMAGE }));
    expect(shown).toMatchObject({ ...expected, model: shown.model, endpoint: "img.converse", path: "/img/demo/img", chatId });
    expect(shown.model).toBe((await sent(await chats.upstream.waitFor(2))).model);
    const set = await chats.eventOf(await ana.post("/demo/system", { content: "Be brief." }));
    expect(set).toMatchObject({ endpoint: "system.chat.update", chatId, userId: ana.id });
    for (const query of ["content=swordfish", "CONTENT=swordfish&content=x", "fields=swordfish"]) {
      const answer = await ana.post(`/demo/chat?${query}`);
      expectRefusal(answer, 400, "invalid_input");
      expect((await chats.eventOf(answer)).query).not.toContain("swordfish");
    }
  });
});
