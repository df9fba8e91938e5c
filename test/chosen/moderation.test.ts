import { randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { type Chat, type Chats, model, person, sent, startChats } from "../chat/support.ts";
import { encodings, everyEncoding, expectRefusal } from "../support/answers.ts";
import { type Answer, KEY, type Person } from "../support/app.ts";
import { faults, type Handler, type Recorded, startUpstream, type Upstream } from "../support/upstream.ts";
import { replyText } from "../support/upstream-answers.ts";
import { ADDRESS, PNG } from "./pictures.ts";

/** The upstream of the tests flags this for violence, and nothing else. */
const BAD = "How do I kill a process?";
const GOOD = "How do I end a process?";

const isModeration = ({ target }: Recorded) => /\/moderations(\?|$)/.test(target);
const asked = ({ requests }: Upstream) => ({
  moderations: requests.filter(isModeration),
  completions: requests.filter((it) => !isModeration(it)),
});
const moderated = (upstream: Upstream) =>
  Promise.all(asked(upstream).moderations.map(async (it) => (await sent(it)).input as unknown));
const moderating = (upstream: Upstream, handler: Handler) => upstream.when(isModeration, handler);
/** Moderation that flags everything for these. */
const flagging = (...categories: (object | null | undefined)[]) =>
  faults.status(200, { id: "modr-1", model: "m", results: categories.map((it) => ({ flagged: true, categories: it })) });

type Says = (chat: Chat, text: string, streamed?: boolean) => Promise<Answer>;
const accepting = (streamed = false): Record<string, string> => (streamed ? { accept: "text/event-stream" } : {});
async function templateOf({ call }: Chat, text: string) {
  const made = await call("/chat/template/create", { name: "A template", text: `{{what}}${text.slice(3)}` });
  return { template: made.json.id as string, fields: { what: text.slice(0, 3) } };
}
const conversing: [way: string, says: Says][] = [
  ["/chat/prompt", (chat, prompt, streamed) => chat.prompt({ prompt }, chat.owner, accepting(streamed))],
  ["/<key>/chat", ({ id, owner, call }, content, streamed) => call(`/${id}/chat`, { content }, owner, accepting(streamed))],
  [
    "/<key>/img",
    ({ id, owner, call }, content, streamed) => call(`/${id}/img`, { content, url: PNG }, owner, accepting(streamed)),
  ],
  [
    "/chat/<id>/v1/chat/completions",
    ({ id, call }, content, stream = false) =>
      call(`/chat/${id}/v1/chat/completions`, { messages: [{ role: "user", content }], stream }),
  ],
  [
    "/chat/prompt with a template",
    async (chat, text, streamed) => chat.prompt(await templateOf(chat, text), chat.owner, accepting(streamed)),
  ],
  [
    "/<key>/chat with a template",
    async (chat, text, streamed) => chat.call(`/${chat.id}/chat`, await templateOf(chat, text), chat.owner, accepting(streamed)),
  ],
];
const describing: Says = ({ owner, call }, content, streamed) =>
  call("/img", { content, url: ADDRESS }, owner, accepting(streamed));
const everyWay: [way: string, says: Says][] = [...conversing, ["/img", describing]];

const rowsOf = ({ app }: Chats) => {
  const { db, messages, images, chats } = app.deps.store;
  return Promise.all([messages, images, chats].map((table) => db.$count(table)));
};

async function starting(env: Parameters<typeof startChats>[0]): Promise<Chats> {
  const own = await startChats(env);
  onTestFinished(() => own.close());
  return own;
}

describe("POST /mod", () => {
  let chats: Chats;
  let me: Person;
  beforeAll(async () => {
    chats = await startChats();
    me = await person(chats.app.deps.store);
  });
  afterEach(() => chats.reset());
  afterAll(() => chats.close());
  const check = (content: unknown) => chats.app.call("/mod", { token: me.token, body: { content } });

  test.each(everyEncoding)("answers what the upstream says, word for word, by %s", async (_encoding, encode) => {
    const text = '  "kill" \\ grüße 🎉\r\n\u2028 100% & more=less  ';
    const said = {
      id: "modr-Ü1",
      model: "omni-moderation-9",
      extra: { nested: [1, 2.5, null, { ключ: "🎉" }], empty: {} },
      results: [
        {
          flagged: true,
          categories: { violence: true, "self-harm/intent": false },
          category_scores: { violence: 1.5e-7 },
          new: [],
        },
        { flagged: false, categories: null, why: "nothing" },
      ],
      usage: null,
    };
    moderating(chats.upstream, faults.status(200, said));
    const answer = await chats.app.call("/mod", { token: me.token, ...encode({ content: text }) });
    expect({ status: answer.status, json: answer.json }).toEqual({ status: 200, json: said });
    const [{ method, target, headers }] = chats.upstream.requests as [Recorded];
    expect([method, target, headers.authorization]).toEqual(["POST", "/v1/moderations", `Bearer ${KEY}`]);
    expect(await Promise.all(chats.upstream.requests.map(sent))).toEqual([{ input: text }]);
    expect(await rowsOf(chats)).toEqual([0, 0, 0]);
  });

  test("is for those who signed in, and for some text in the body", async () => {
    expectRefusal(await chats.app.call("/mod", { body: { content: BAD } }), 401, "unauthenticated");
    for (const content of ["", undefined, 5, [BAD]]) expectRefusal(await check(content), 400, "invalid_input");
    const answer = await chats.app.call("/mod?content=swordfish", { token: me.token, body: {} });
    expectRefusal(answer, 400, "invalid_input");
    expect(JSON.stringify([await chats.eventOf(answer), chats.lines])).not.toContain("swordfish");
    expect(chats.upstream.requests).toEqual([]);
  });

  const quoting = { error: { code: "some_code", type: "some_type", message: `Incorrect API key provided: ${KEY}.` } };
  const results = (value: unknown) => faults.status(200, { id: "modr-1", model: "m", results: value });
  test.each<[what: string, handler: Handler, status: number, code: string, calls: number, retryAfter: string | null]>([
    ["429 for long", faults.status(429, quoting, { "retry-after": "30" }), 503, "upstream_busy", 1, "30"],
    ["429", faults.status(429, quoting), 503, "upstream_busy", 3, "2"],
    ["400", faults.status(400, quoting), 502, "upstream_refused", 1, null],
    ["404", faults.status(404, quoting), 502, "upstream_refused", 1, null],
    ["401", faults.status(401, quoting), 502, "upstream_key_rejected", 1, null],
    ["500", faults.status(500, quoting), 502, "upstream_failed", 3, null],
    ["503", faults.status(503, KEY), 502, "upstream_failed", 3, null],
    ["a redirect", faults.redirect("/v1/elsewhere"), 502, "upstream_garbled", 1, null],
    ["a reset", faults.resetBeforeHeaders(), 502, "upstream_reset", 3, null],
    ["half an answer", faults.resetMidStream('{"id":"modr-1",'), 502, "upstream_reset", 1, null],
    ["HTML", faults.status(200, `<p>${KEY}</p>`), 502, "upstream_garbled", 1, null],
    ["nothing", faults.status(200), 502, "upstream_garbled", 1, null],
    ["null", faults.status(200, "null"), 502, "upstream_garbled", 1, null],
    ["a list", faults.status(200, []), 502, "upstream_garbled", 1, null],
    ["an error that is none", faults.status(200, quoting), 502, "upstream_garbled", 1, null],
    ["no results", results(undefined), 502, "upstream_garbled", 1, null],
    ["no result", results([]), 502, "upstream_garbled", 1, null],
    ["results that are none", results({ flagged: true }), 502, "upstream_garbled", 1, null],
    ["a result that is none", results([{ flagged: false }, null]), 502, "upstream_garbled", 1, null],
    ["a result that says nothing", results([{ flagged: "no" }]), 502, "upstream_garbled", 1, null],
    ["no id", faults.status(200, { model: "m", results: [{ flagged: false }] }), 502, "upstream_garbled", 1, null],
    ["no model", faults.status(200, { id: "modr-1", results: [{ flagged: false }] }), 502, "upstream_garbled", 1, null],
  ])("tells of %s, with no part of the key", async (_what, handler, status, code, calls, retryAfter) => {
    moderating(chats.upstream, handler);
    const answer = await check(GOOD);
    expect(chats.upstream.requests).toHaveLength(calls);
    expectRefusal(answer, status, code);
    expect(answer.headers.get("retry-after")).toBe(retryAfter);
    const told = JSON.stringify([answer.text, [...answer.headers], chats.lines, await chats.eventOf(answer)]);
    const parts = Array.from({ length: KEY.length - 7 }, (_, at) => KEY.slice(at, at + 8));
    expect(parts.filter((part) => told.includes(part))).toEqual([]);
  });

  test("is answered where the upstream comes to itself within two more tries", async () => {
    for (const status of [500, 429]) chats.upstream.next(faults.status(status, quoting));
    expect((await check(BAD)).json).toMatchObject({ id: "modr-1", results: [{ flagged: true, categories: { violence: true } }] });
    expect(chats.upstream.requests).toHaveLength(3);
  });

  test("waits no longer than UPSTREAM_TIMEOUT, and tells of an upstream that is not there", async () => {
    const gone = await startUpstream();
    await gone.close();
    const [slow, absent] = await Promise.all([starting({ UPSTREAM_TIMEOUT: "1" }), starting({ API_URL: gone.url })]);
    slow.upstream.when(() => true, faults.hang());
    const refusals = [slow, absent].map(async ({ app }) => {
      const { token } = await person(app.deps.store);
      return app.call("/mod", { token, body: { content: GOOD } });
    });
    const [late, unreachable] = (await Promise.all(refusals)) as [Answer, Answer];
    expectRefusal(late, 504, "upstream_timeout");
    expectRefusal(unreachable, 502, "upstream_unreachable");
    expect(slow.upstream.requests).toHaveLength(1);
  });
});

test.each([
  ["a path", "/some/prefix/v1", "/some/prefix/v1/moderations", ["authorization", `Bearer ${KEY}`]],
  ["a path without /v1", "/some/prefix/", "/some/prefix/v1/moderations", ["authorization", `Bearer ${KEY}`]],
  ["Azure", "/openai/deployments/my-gpt", "/openai/moderations?api-version=2024-10-21", ["api-key", KEY]],
  [
    "a version of Azure",
    "/p/openai/deployments/my-gpt/chat/completions?api-version=2025-01-01",
    "/p/openai/moderations?api-version=2025-01-01",
    ["api-key", KEY],
  ],
] as const)("moderation is asked where an API_URL with %s says", async (_what, path, target, [header, value]) => {
  const own = await starting((upstream) => ({ API_URL: upstream.url + path, MODERATE: "block" }));
  moderating(own.upstream, flagging({ violence: true }));
  const chat = await own.chat();
  expect((await chat.call("/mod", { content: BAD })).json).toMatchObject({ results: [{ flagged: true }] });
  expectRefusal(await chat.prompt(BAD), 400, "content_flagged");
  expect(own.upstream.requests.map((it) => [it.target, it.headers[header]])).toEqual([
    [target, value],
    [target, value],
  ]);
});

describe("without MODERATE", () => {
  let chats: Chats;
  beforeAll(async () => {
    chats = await startChats();
  });
  afterAll(() => chats.close());

  test.each(everyWay)("nothing that is said by %s is moderated", async (_way, says) => {
    const chat = await chats.chat();
    chats.reset();
    for (const streamed of [false, true]) expect((await says(chat, BAD, streamed)).status).toBe(200);
    expect(chats.upstream.requests.map(({ target }) => target)).toEqual(Array(2).fill("/v1/chat/completions"));
    for (const { flagged } of await chat.read()) expect(flagged).toBeNull();
  });
});

describe("MODERATE=flag", () => {
  let chats: Chats;
  beforeAll(async () => {
    chats = await startChats({ MODERATE: "flag" });
  });
  afterEach(() => chats.reset());
  afterAll(() => chats.close());

  test.each(conversing)("marks what is said by %s, and lets it through", async (_way, says) => {
    const chat = await chats.chat();
    for (const streamed of [false, true])
      for (const text of [BAD, GOOD]) {
        const answer = await says(chat, text, streamed);
        expect({ status: answer.status, text: answer.text }).toMatchObject({ status: 200 });
        expect(answer.text).toContain("Straße");
      }
    const said = (await chat.read()).map(({ prompt, reply, state, flagged }) => ({ prompt, reply, state, flagged }));
    const done = { reply: replyText, state: "done" };
    const twice = [
      { ...done, prompt: BAD, flagged: ["violence"] },
      { ...done, prompt: GOOD, flagged: null },
    ];
    expect(said).toEqual([...twice, ...twice]);
    expect(asked(chats.upstream)).toMatchObject({ moderations: { length: 4 }, completions: { length: 4 } });
  });

  test("tells in the answer what a prompt is flagged for, and of nothing else", async () => {
    const chat = await chats.chat();
    expect((await chat.prompt(BAD)).json.message.flagged).toEqual(["violence"]);
    expect((await chat.prompt(GOOD)).json.message.flagged).toBeNull();
    const reply = { content: replyText, role: "assistant", tokens: expect.any(Object) };
    for (const [path, more] of [
      [`/${chat.id}/chat`, {}],
      [`/${chat.id}/img`, { url: PNG }],
      ["/img", { url: PNG }],
    ] as const) {
      expect((await chat.call(path, { content: BAD, ...more })).json).toEqual({ ...reply, flagged: ["violence"] });
      expect((await chat.call(path, { content: GOOD, ...more })).json).toEqual(reply);
    }
  });

  test.each<[what: string, handler: Handler, flags: string[]]>([
    ["every category, once", flagging({ hate: true, violence: true, sexual: false }, { violence: true }), ["hate", "violence"]],
    ["what has no category", flagging({ hate: false }), ["flagged"]],
    ["what has no categories", flagging(undefined), ["flagged"]],
    ["what has null for categories", flagging(null), ["flagged"]],
  ])("marks %s", async (_what, handler, flags) => {
    moderating(chats.upstream, handler);
    const chat = await chats.chat();
    expect((await chat.prompt(GOOD)).json.message.flagged).toEqual(flags);
    expect((await chat.read()).map(({ flagged }) => flagged)).toEqual([flags]);
  });

  test("asks the model without waiting for moderation", async () => {
    const chat = await chats.chat();
    moderating(chats.upstream, async (...call) => {
      await chats.upstream.waitFor((it) => !isModeration(it));
      await flagging({ hate: true })(...call);
    });
    expect((await chat.prompt(GOOD)).json.message).toMatchObject({ reply: replyText, flagged: ["hate"] });
    expect((await describing(chat, GOOD)).json).toMatchObject({ content: replyText, flagged: ["hate"] });
  });

  test("is given images with their text", async () => {
    const chat = await chats.chat();
    const shown = (url: string) => [
      { type: "text", text: BAD },
      { type: "image_url", image_url: { url } },
    ];
    for (const path of ["/img", `/${chat.id}/img`])
      for (const url of [PNG, ADDRESS]) expect((await chat.call(path, { content: BAD, url })).json.flagged).toEqual(["violence"]);
    expect(await moderated(chats.upstream)).toEqual([PNG, ADDRESS, PNG, ADDRESS].map(shown));
    chats.reset();
    // Of a prompt it is given what is new, and not what was said before.
    await chat.prompt(GOOD);
    expect(await moderated(chats.upstream)).toEqual([GOOD]);
  });

  test.each<[what: string, handler: Handler]>([
    ["refuses", faults.status(400, { error: { message: BAD } })],
    ["rejects the key", faults.status(401)],
    ["is at its limit", faults.status(429, "", { "retry-after": "60" })],
    ["fails", faults.status(500)],
    ["is garbled", faults.status(200, `{"results":[{"flagged":"${BAD}"}]}`)],
    ["says nothing", faults.status(200)],
  ])("lets a prompt through unmarked where moderation %s, and the log says so", async (_what, handler) => {
    moderating(chats.upstream, handler);
    const chat = await chats.chat();
    const { status, json } = await chat.prompt(BAD);
    expect({ status, message: json.message }).toMatchObject({ status: 200, message: { state: "done", flagged: null } });
    const answer = await describing(chat, BAD);
    expect(answer.json).toEqual({ content: replyText, role: "assistant", tokens: expect.any(Object) });
    const warnings = chats.lines.filter(({ message }) => message === "not moderated");
    expect(warnings.map(({ severity }) => severity)).toEqual(["WARNING", "WARNING"]);
    expect(JSON.stringify(chats.lines)).not.toContain(BAD);
  });

  test("does not hold up who stops a reply", async () => {
    const chat = await chats.chat();
    moderating(chats.upstream, faults.hang());
    const slow = model();
    chats.upstream.when((it) => !isModeration(it), slow.handler);
    const viewer = await chat.watch();
    const running = chat.prompt({ prompt: GOOD, stream: true });
    await slow.say("half of it");
    await viewer.partly(GOOD, "half of it");
    const stoppedAtMs = performance.now();
    expect((await chat.call("/chat/stop", { id: chat.id })).status).toBe(200);
    expect((await running).json.message).toMatchObject({ state: "stopped", reply: "half of it" });
    expect(performance.now() - stoppedAtMs).toBeLessThan(5_000);
    viewer.leave();
  });
});

describe("MODERATE=block", () => {
  let chats: Chats;
  beforeAll(async () => {
    chats = await startChats({ MODERATE: "block" });
  });
  afterEach(() => chats.reset());
  afterAll(() => chats.close());

  test.each(everyWay)("refuses what is flagged by %s before it is stored or sent, and nothing else", async (_way, says) => {
    const chat = await chats.chat();
    const before = await rowsOf(chats);
    for (const streamed of [false, true]) {
      const answer = await says(chat, BAD, streamed);
      expectRefusal(answer, 400, "content_flagged");
      expect(answer.json.error.message).toContain("violence");
      expect(await chats.eventOf(answer)).toMatchObject({ status: 400, errorCode: "content_flagged", userId: chat.owner.id });
    }
    expect(await rowsOf(chats)).toEqual(before);
    expect(asked(chats.upstream)).toMatchObject({ moderations: { length: 2 }, completions: { length: 0 } });
    chats.reset();
    for (const streamed of [false, true]) expect((await says(chat, GOOD, streamed)).status).toBe(200);
    const targets = chats.upstream.requests.map(({ target }) => target);
    expect(targets).toEqual(["/v1/moderations", "/v1/chat/completions", "/v1/moderations", "/v1/chat/completions"]);
  });

  test("makes no chat for what it refuses, by JSON and form", async () => {
    const { token } = await person(chats.app.deps.store);
    const before = await rowsOf(chats);
    for (const encode of Object.values(encodings))
      for (const path of ["/fresh/chat", "/fresh/img", "/img/fresh/img", "/chat/fresh/chat"]) {
        const fields = { content: BAD, ...(path.endsWith("img") && { url: PNG }) };
        expectRefusal(await chats.app.call(path, { token, ...encode(fields) }), 400, "content_flagged");
      }
    expect(await rowsOf(chats)).toEqual(before);
    expect((await chats.app.call("/chat/index", { token, body: {} })).json.chats).toEqual([]);
  });

  test("is given images with their text", async () => {
    const chat = await chats.chat();
    for (const path of ["/img", `/${chat.id}/img`])
      for (const url of [PNG, ADDRESS]) expectRefusal(await chat.call(path, { content: BAD, url }), 400, "content_flagged");
    const shown = (url: string) => [
      { type: "text", text: BAD },
      { type: "image_url", image_url: { url } },
    ];
    expect(await moderated(chats.upstream)).toEqual([PNG, ADDRESS, PNG, ADDRESS].map(shown));
  });

  test.each([
    ["no category", { hate: false }],
    ["no categories", undefined],
    ["null for categories", null],
  ])("refuses what is flagged with %s", async (_what, categories) => {
    moderating(chats.upstream, flagging(categories));
    const chat = await chats.chat();
    expectRefusal(await chat.prompt(GOOD), 400, "content_flagged");
    expect(await chat.rows()).toEqual([]);
  });

  test.each<[what: string, handler: Handler, status: number, code: string]>([
    ["refuses", faults.status(400), 502, "upstream_refused"],
    ["rejects the key", faults.status(401), 502, "upstream_key_rejected"],
    ["is at its limit", faults.status(429, "", { "retry-after": "60" }), 503, "upstream_busy"],
    ["fails", faults.status(500), 502, "upstream_failed"],
    ["is garbled", faults.status(200, { results: [{}] }), 502, "upstream_garbled"],
  ])("stores and sends nothing while moderation %s", async (_what, handler, status, code) => {
    moderating(chats.upstream, handler);
    const chat = await chats.chat();
    const before = await rowsOf(chats);
    const answers = everyWay.map(([, says], at) => says(chat, GOOD, at % 2 === 0));
    for (const answer of await Promise.all(answers)) expectRefusal(answer, status, code);
    expect(await rowsOf(chats)).toEqual(before);
    expect(asked(chats.upstream).completions).toEqual([]);
  });

  test("stores and sends nothing while moderation is silent", async () => {
    const own = await starting({ MODERATE: "block", UPSTREAM_TIMEOUT: "1" });
    moderating(own.upstream, faults.hang());
    const chat = await own.chat();
    for (const answer of await Promise.all([chat.prompt(GOOD), describing(chat, GOOD)]))
      expectRefusal(answer, 504, "upstream_timeout");
    expect(await chat.rows()).toEqual([]);
    expect(asked(own.upstream).completions).toEqual([]);
  });

  test("answers a prompt again that was answered, whatever moderation says by now", async () => {
    const chat = await chats.chat();
    const said = { prompt: GOOD, message_id: randomUUID() };
    const { status, json } = await chat.prompt(said);
    expect(status).toBe(200);
    for (const handler of [faults.status(400), flagging({ violence: true })]) {
      moderating(chats.upstream, handler);
      const again = await chat.prompt(said);
      expect({ status: again.status, json: again.json }).toEqual({ status: 200, json });
    }
  });

  test("shows nobody what a stranger says to a chat, who is told as ever that there is none", async () => {
    const chat = await chats.chat();
    const stranger = await person(chats.app.deps.store);
    for (const text of [BAD, GOOD]) {
      expectRefusal(await chat.prompt(text, stranger), 404, "not_found");
      expectRefusal(await chat.call(`/${chat.id}/img`, { content: text, url: PNG }, stranger), 404, "not_found");
    }
    expect(chats.upstream.requests).toEqual([]);
  });
});

test.each(["off", "flag", "block"])("what is off the record is never moderated, with MODERATE=%s", async (mode) => {
  const own = await starting({ MODERATE: mode });
  const chat = await own.chat();
  const template = await templateOf(chat, BAD);
  for (const fields of [{ prompt: BAD }, template, { prompt: BAD, stream: true }])
    for (const headers of [accepting(false), accepting(true)]) {
      const { status, text } = await chat.prompt({ ...fields, otr: true }, chat.owner, headers);
      expect({ status, text }).toMatchObject({ status: 200, text: expect.stringContaining(BAD) });
    }
  expect((await chat.read()).map(({ prompt, flagged }) => [prompt, flagged])).toEqual(Array(6).fill([BAD, null]));
  expect((await chat.prompt(GOOD)).status).toBe(200);
  expect(JSON.stringify(await Promise.all(own.upstream.requests.map(sent)))).not.toContain("kill");
  expect(asked(own.upstream).completions).toHaveLength(1);
});
