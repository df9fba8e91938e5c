import { randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { functions } from "../../functions/all.ts";
import { type AnyEndpoint, type AnyStream, isRelay } from "../../lib/http/endpoint.ts";
import { chatName } from "../../lib/http/fields.ts";
import { answerEach, type Chats, modelFor, startChats, watchStream } from "../chat/support.ts";
import { converse } from "../streams/talk.ts";
import { everyEncoding, expectRefusal } from "../support/answers.ts";
import type { Answer } from "../support/app.ts";
import { ask, request } from "../support/raw.ts";
import { NOTHING, newGroup, placed, queryOf, routed } from "../support/samples.ts";
import { type Asker, asker, askers, IMAGE, lastTurns, must } from "./asker.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

/** Every endpoint and stream that takes the name of a chat, and the field in which it does. */
const takers = functions.flatMap(({ endpoints }) =>
  endpoints.flatMap((entry) => {
    if (isRelay(entry)) return [];
    const { name, route, input } = entry as AnyEndpoint | AnyStream;
    const field = Object.keys(input.shape).find((it) => input.shape[it] === chatName);
    return field ? [{ name, field, ...routed(route) }] : [];
  }),
);
const MAKERS = ["chat.converse", "chat.clear", "img.converse", "system.chat.update"];

/** Asks each of the endpoints about a chat, by each of its methods; whatever else they need is given. */
async function askAll(by: Asker, name: unknown, list = takers): Promise<(Answer & { what: string })[]> {
  const more = { prompt: "hi", content: "hi", url: IMAGE, user_ids: [by.id], messages: [{ role: "user", content: "hi" }] };
  const asked = list.flatMap(({ name: what, field, template, methods }) =>
    methods.map(async (method) => {
      const { path, rest } = placed({ template }, { ...(method === "POST" && more), [field]: name });
      const answer = method === "POST" ? await by.post(path, rest) : await by.get(`${path}?${queryOf(rest)}`);
      return { ...answer, what: `${method} ${what}` };
    }),
  );
  return Promise.all(asked);
}
const inFields = takers.filter(({ template, field }) => !template.includes(`:${field}`));
const countChats = () => chats.app.deps.store.db.$count(chats.app.deps.store.chats);
const chatsOf = async (by: Asker) => (await must(by.get("/chat/index?limit=1000"))).chats;
/** What refusals say, without what differs by request. */
const said = (answers: Answer[]) => new Set(answers.map(({ json }) => JSON.stringify({ ...json.error, request_id: "" })));

test("the endpoints that take the name of a chat are found", () => {
  expect(takers.map(({ name }) => name)).toEqual(
    expect.arrayContaining([...MAKERS, "chat.read", "chat.stream", "system.chat.read"]),
  );
  expect(takers.length).toBeGreaterThan(14);
});

describe("equal keys of two people", () => {
  test("are two chats: what is said, its memory, its system prompt, its list, its stream and its clearing", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const [ana, ben] = (await askers(chats, 2)) as [Asker, Asker];
    await must(ana.post("/demo/system", { content: "Be a pirate." }));
    await must(ana.post("/demo/chat", { content: "I am Ana" }));
    await must(ben.post("/demo/chat", { content: "I am Ben" }));
    const watching = await Promise.all([ana, ben].map(({ token }) => watchStream(`${chats.app.url}/chat/stream?id=demo`, token)));
    await must(ben.post("/demo/chat", { content: "who am I?", stream: true }));
    const memory = ["I am Ben", "re: I am Ben", "who am I?"];
    expect((await lastTurns(chats)).map(({ content }) => content)).toEqual(memory);
    await must(ana.post("/demo/chat", { content: "and who am I?", stream: true }));
    expect((await lastTurns(chats)).map(({ content }) => content)).toEqual([
      "Be a pirate.",
      "I am Ana",
      "re: I am Ana",
      "and who am I?",
    ]);
    const [hers, his] = watching as [(typeof watching)[number], (typeof watching)[number]];
    await Promise.all([hers.ended("and who am I?"), his.ended("who am I?")]);
    for (const it of watching) it.leave();
    const heard = watching.map(({ messages }) => [...messages.values()].map(({ prompt }) => prompt));
    expect([heard[0], heard[1]]).toEqual([
      expect.not.arrayContaining(["who am I?"]),
      expect.not.arrayContaining(["and who am I?"]),
    ]);
    expect((await must(ben.get("/demo/system"))).content).toBe("");
    expect(await must(ana.post("/demo/clear"))).toEqual({});
    expectRefusal(await ana.get("/demo/chat"), 404, "not_found");
    const his4 = [...memory, "re: who am I?"];
    expect((await must(ben.get("/demo/chat"))).map(({ content }: { content: string }) => content)).toEqual(his4);
    const [[anas], [bens]] = await Promise.all([chatsOf(ana), chatsOf(ben)]);
    expect([anas, bens]).toMatchObject([
      { key: "demo", owner_id: ana.id },
      { key: "demo", owner_id: ben.id },
    ]);
    expect(anas.id).not.toBe(bens.id);
  });

  test("give nobody a way to the other's: its id is to everybody else as if it were not there", async () => {
    const [ana, ben] = (await askers(chats, 2)) as [Asker, Asker];
    await must(ana.post("/demo/chat", { content: "swordfish" }));
    const [{ id }] = await chatsOf(ana);
    const refusals = [...(await askAll(ben, id)), ...(await askAll(ben, NOTHING))];
    for (const answer of refusals) {
      expect(answer.text).not.toContain("swordfish");
      expectRefusal(answer, 404, "not_found");
    }
    expect(said(refusals).size).toBe(1);
    expect(await chatsOf(ben)).toEqual([]);
    expect((await must(ana.get("/demo/chat"))).length).toBe(2);
  });
});

describe("a chat of one's own", () => {
  test.each<[path: string, body: Record<string, unknown>]>([
    ["chat", { content: "hi" }],
    ["system", { content: "Be brief." }],
    ["img", { content: "What is this?", url: IMAGE }],
  ])("is made by the first POST /<key>/%s, with its key for a name and the default model, once", async (path, body) => {
    const ana = await asker(chats);
    for (let n = 0; n < 2; n++) await must(ana.post(`/First.Use/${path}`, body));
    const listed = await chatsOf(ana);
    const made = { key: "First.Use", name: "First.Use", model: "gpt-4o-mini", owner_id: ana.id, group_id: null };
    expect(listed).toMatchObject([made]);
    expect((await must(ana.get("/chat/read?id=First.Use"))).chat).toMatchObject({ ...made, id: listed[0].id });
  });

  test("is made by nothing else: no GET, no other path, nothing that is refused", async () => {
    const ana = await asker(chats);
    const before = await countChats();
    const others = takers.filter(({ name }) => ![...MAKERS, "system.chat.read"].includes(name));
    for (const answer of await askAll(ana, "absent", others)) {
      expect({ what: answer.what, status: answer.status }).toEqual({ what: answer.what, status: 404 });
      expectRefusal(answer, 404, "not_found");
    }
    expect(await must(ana.get("/absent/system"))).toEqual({ content: "" });
    const refused: [path: string, body: Record<string, unknown>][] = [
      ["chat", {}],
      ["chat", { content: "" }],
      ["chat", { content: "hi", context: 51 }],
      ["chat", { content: "hi", message_id: "none" }],
      ["system", {}],
      ["img", { content: "hi", url: "http://images.example/cat.png" }],
      ["img", { content: "hi" }],
    ];
    for (const [path, body] of refused) expectRefusal(await ana.post(`/absent/${path}`, body), 400, "invalid_input");
    for (const path of ["chat", "system", "img"])
      expectRefusal(await chats.app.call(`/absent/${path}`, { body: { content: "hi", url: IMAGE } }), 401);
    expect(await countChats()).toBe(before);
    expect(chats.upstream.requests).toHaveLength(0);
  });

  test("that twenty use at once for the first time is one, and nothing of it is lost", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const ana = await asker(chats);
    const prompts = Array.from({ length: 20 }, (_, n) => `prompt ${n}`);
    const answers = await Promise.all(prompts.map((content) => ana.post("/rush/chat", { content })));
    expect(answers.map(({ status, json }) => [status, json.content])).toEqual(prompts.map((it) => [200, `re: ${it}`]));
    expect(await chatsOf(ana)).toHaveLength(1);
    const { messages } = await must(ana.get("/chat/read?id=rush"));
    expect(messages.map(({ seq }: { seq: number }) => seq)).toEqual(prompts.map((_, n) => n + 1));
    expect(messages.map(({ prompt }: { prompt: string }) => prompt).sort()).toEqual([...prompts].sort());
    const first = ["system", "chat", "img"].map((it) => ana.post(`/mixed/${it}`, { content: "hi", url: IMAGE }));
    expect((await Promise.all(first)).map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(await must(ana.get("/mixed/system"))).toEqual({ content: "hi" });
    expect((await must(ana.get("/chat/read?id=mixed"))).messages.map(({ seq }: { seq: number }) => seq)).toEqual([1, 2]);
    expect(await chatsOf(ana)).toHaveLength(2);
  });

  test.each(["its key", "its id"])("is the same by %s wherever a chat is named, in JSON, forms and queries", async (by) => {
    const [ana, friend] = (await askers(chats, 2)) as [Asker, Asker];
    await must(ana.post("/demo/chat", { content: "first" }));
    const [{ id }] = await chatsOf(ana);
    const name = by === "its key" ? "demo" : id;
    for (const [how, encode] of everyEncoding) {
      const asked = (path: string, fields: Record<string, unknown>) =>
        must(
          chats.app.call(path, { ...encode(fields), headers: { ...encode({}).headers, authorization: `Bearer ${ana.token}` } }),
        );
      const users = async (path: string) =>
        (await asked(path, { chat_id: name, user_ids: friend.id })).users.map(({ id }: { id: string }) => id);
      expect((await asked("/chat/prompt", { id: name, prompt: `by ${how}` })).message.chat_id).toBe(id);
      expect((await asked("/chat/update", { id: name, name: how })).chat).toMatchObject({ id, key: "demo", name: how });
      expect((await asked("/chat/read", { id: name })).chat).toMatchObject({ id, key: "demo", name: how });
      expect((await asked("/chat/ticket", { id: name })).ticket).toMatch(/^pgt_/);
      expect(await asked("/chat/stop", { id: name })).toEqual({ messages: [] });
      expect(await users("/chat/user/add")).toEqual([ana.id, friend.id]);
      expect(await users("/chat/user/remove")).toEqual([ana.id]);
      expect((await asked(`/chat/${name}/v1/models`, {})).object).toBe("list");
      await asked(`/${name}/chat`, { content: `said by ${how}` });
      await asked(`/img/${name}/img`, { content: `shown by ${how}`, url: IMAGE });
      await asked(`/system/${name}/system`, { content: `set by ${how}` });
      expect(await must(ana.get(`/${name}/system`))).toEqual({ content: `set by ${how}` });
    }
    expect((await must(ana.get(`/chat/read?id=${name}`))).chat.id).toBe(id);
    expect((await must(ana.post(`/chat/update?id=${name}`, { name: "by query" }))).chat).toMatchObject({ id, name: "by query" });
    expect((await must(ana.get(`/chat/${name}/v1/models`))).data).not.toEqual([]);
    await must(ana.post(`/chat/${name}/v1/chat/completions`, { messages: [{ role: "user", content: "as OpenAI's" }] }));
    const prompts = ["json", "form"].flatMap((how) => [`by ${how}`, `said by ${how}`, `shown by ${how}`]);
    const told = (await must(ana.get(`/${name}/chat`))).filter(({ role }: { role: string }) => role === "user");
    expect(told.map(({ content }: { content: string }) => content)).toEqual(["first", ...prompts, "as OpenAI's"]);
    expectRefusal(await ana.post(`/chat/${name}/v1/chat/completions`, { id: NOTHING, messages: [] }), 400, "invalid_input");
    expectRefusal(await ana.post(`/${name}/chat`, { chat_id: "another", content: "hi" }), 400, "invalid_input");
    expect(await must(ana.post("/chat/delete", { id: name }))).toEqual({});
    for (const other of ["demo", id]) expectRefusal(await ana.get(`/chat/read?id=${other}`), 404, "not_found");
    expect(await chatsOf(ana)).toEqual([]);
    await must(ana.post("/demo/chat", { content: "anew" }));
    expect((await must(ana.get("/demo/chat"))).map(({ content }: { content: string }) => content)[0]).toBe("anew");
  });

  test("is watched, with a ticket too and by WebSocket, and stopped by its key", async () => {
    const ana = await asker(chats);
    await must(ana.post("/live/system", { content: "Be brief." }));
    const address = `${chats.app.url}/chat/stream?id=live`;
    const ticket = async () => (await must(ana.post("/chat/ticket", { id: "live" }))).ticket;
    const bySse = await watchStream(address, ana.token);
    const sockets = [
      await converse(address, { authorization: `Bearer ${ana.token}` }),
      await converse(`${address}&ticket=${await ticket()}`),
    ];
    const model = modelFor(chats.upstream, "tell me everything");
    const answer = ana.post("/live/chat", { content: "tell me everything", stream: true });
    await model.say("As far as this");
    await bySse.partly("tell me everything", "As far as this");
    const { messages } = await must(ana.post("/chat/stop", { id: "live" }));
    expect(messages).toMatchObject([{ prompt: "tell me everything", state: "stopped", stopped_by: ana.id }]);
    expect(await must(answer)).toMatchObject({ content: "As far as this", role: "assistant" });
    expect(await bySse.ended("tell me everything")).toMatchObject({ whole: "As far as this" });
    bySse.leave();
    for (const { hears, heard, socket } of sockets) {
      await hears((all) => all.some((it) => JSON.parse(it).partial === false));
      expect(heard.map((it) => JSON.parse(it)).findLast(({ partial }) => partial === false)).toMatchObject({
        message: { prompt: "tell me everything", reply: "As far as this" },
      });
      socket.terminate();
    }
  });

  test("is named by its id by a member who was added; their own key is another chat", async () => {
    const [ana, ben] = (await askers(chats, 2)) as [Asker, Asker];
    await must(ana.post("/demo/chat", { content: "hers" }));
    await must(ana.post("/chat/user/add", { chat_id: "demo", usernames: [ben.username] }));
    const [{ id }] = await chatsOf(ben);
    expectRefusal(await ben.get("/demo/chat"), 404, "not_found");
    await must(ben.post(`/${id}/chat`, { content: "his, in hers" }));
    await must(ben.post("/demo/chat", { content: "his" }));
    const prompts = async (by: Asker, name: string) =>
      (await must(by.get(`/chat/read?id=${name}`))).messages.map(({ prompt }: { prompt: string }) => prompt);
    expect(await prompts(ana, "demo")).toEqual(["hers", "his, in hers"]);
    expect(await prompts(ben, id)).toEqual(["hers", "his, in hers"]);
    expect(await prompts(ben, "demo")).toEqual(["his"]);
    expect(await chatsOf(ben)).toMatchObject([
      { key: "demo", owner_id: ben.id },
      { id, key: "demo", owner_id: ana.id },
    ]);
    await must(ana.post("/chat/user/remove", { chat_id: "demo", user_ids: [ben.id] }));
    for (const answer of await askAll(ben, id)) expectRefusal(answer, 404, "not_found");
  });
});

test("a group's chat is talked in by its id on these paths; what its owner alone may is refused to members", async () => {
  const [ana, ben, stranger] = (await askers(chats, 3)) as [Asker, Asker, Asker];
  const groupId = await newGroup(chats.app, ana);
  await must(ana.post("/group/members/add", { group_id: groupId, user_ids: [ben.id] }));
  const { id, key } = await must(ana.post("/chat/create", { group_id: groupId }));
  expect(key).toBeNull();
  await must(ana.post(`/${id}/system`, { content: "Be brief." }));
  await must(ben.post(`/${id}/chat`, { content: "hi, all" }));
  await must(ben.post(`/chat/${id}/chat`, { content: "hi again" }));
  await must(ben.post(`/${id}/img`, { content: "look", url: IMAGE }));
  expect((await must(ben.get(`/${id}/chat`))).map(({ content }: { content: string }) => content)).toContain("look");
  expect(await must(ben.get(`/${id}/system`))).toEqual({ content: "Be brief." });
  expectRefusal(await ben.post(`/${id}/system`, { content: "Be long." }), 403, "forbidden");
  expectRefusal(await ben.post(`/${id}/clear`), 403, "forbidden");
  const before = await countChats();
  const refusals = [...(await askAll(stranger, id)), ...(await askAll(stranger, NOTHING)), ...(await askAll(ben, randomUUID()))];
  for (const answer of refusals) expectRefusal(answer, 404, "not_found");
  expect(said(refusals).size).toBe(1);
  expect(await countChats()).toBe(before);
  expect((await must(ana.get(`/${id}/chat`))).length).toBe(6);
});

describe("what is no name of a chat", () => {
  const odd = [
    "x".repeat(129),
    " ",
    "a b",
    "a/b",
    "/",
    "ü",
    "日本",
    "\u0000",
    "a\u0000b",
    "a\nb",
    "..%2f",
    "../a",
    "{}",
    "%",
    "a+b",
  ];
  const more = ["@evil", "a:b", "*", "a?b", "a#b", "a\\b", "a=b", "a&b", "\u200b", "ａ", "demo\n", " demo", "demo "];
  const versions = ["0", "9", "a", "f"].map((version) => `01a20087-e128-${version}fb8-be67-000000000abc`);
  const variants = ["0", "7", "c", "f"].map((variant) => `01a20087-e128-7fb8-${variant}e67-000000000abc`);
  const almostIds = ["00000000-0000-0000-0000-000000000001", ...versions, ...variants];

  test.each([...odd, ...more])("%j is refused by everything that takes one, and makes nothing", async (name) => {
    const ana = await asker(chats);
    const before = await countChats();
    const answers = await askAll(ana, name);
    expect(answers.filter(({ status }) => status !== 400).map(({ what, status }) => [what, status])).toEqual([]);
    for (const answer of answers) expectRefusal(answer, 400);
    expect(await countChats()).toBe(before);
  });

  test.each([...almostIds, ...almostIds.map((it) => it.toUpperCase())])(
    "%s looks like an id, and is none: never a key",
    async (name) => {
      const ana = await asker(chats);
      const before = await countChats();
      for (const answer of await askAll(ana, name)) expectRefusal(answer, 400, "invalid_input");
      expect(await countChats()).toBe(before);
    },
  );

  test("an id in upper case is an id, and makes no chat", async () => {
    const ana = await asker(chats);
    await must(ana.post("/demo/chat", { content: "hi" }));
    const [{ id }] = await chatsOf(ana);
    const absent = randomUUID().toUpperCase();
    for (const answer of await askAll(ana, absent)) expectRefusal(answer, 404, "not_found");
    await ana.post(`/${id.toUpperCase()}/chat`, { content: "ho" });
    expect(await chatsOf(ana)).toMatchObject([{ id }]);
  });

  test("nothing, and what is no text, is refused where a field holds it", async () => {
    const ana = await asker(chats);
    for (const name of ["", ".", "..", null, 5, true, ["demo"], { demo: 1 }, []])
      for (const answer of await askAll(
        ana,
        name,
        inFields.map((it) => ({ ...it, methods: ["POST"] })),
      ))
        expectRefusal(answer, 400, "invalid_input");
    for (const query of ["", "?id=", "?id=.", "?id=..", "?id=a&id=b", "?id=%00", "?id=%ff", "?id=%zz", "?id=a%2Fb"])
      expectRefusal(await ana.get(`/chat/read${query}`), 400);
    expect(await chatsOf(ana)).toEqual([]);
  });

  test.each(functions.map(({ name }) => name))("%s is a function's name, and refused", async (name) => {
    const ana = await asker(chats);
    for (const answer of await askAll(ana, name)) expectRefusal(answer, 400, "invalid_input");
    for (const path of ["chat", "system", "img", "clear"])
      expectRefusal(await ana.post(`/${name}/${path}`, { content: "hi", url: IMAGE }), 400, "invalid_input");
    expect(await chatsOf(ana)).toEqual([]);
  });

  test("v1 is refused, and what looks like a reserved name and is none is a key", async () => {
    const ana = await asker(chats);
    for (const answer of await askAll(ana, "v1")) expectRefusal(answer, 400, "invalid_input");
    for (const key of ["V1", "v2", "Chat", "chats", "img.", "template", "message", "create", "health", "events"]) {
      await must(ana.post(`/${key}/chat`, { content: key }));
      expect((await must(ana.get(`/chat/${key}/chat`)))[0]).toEqual({ content: key, role: "user" });
    }
    expect(await chatsOf(ana)).toHaveLength(10);
  });

  test.each([
    ...["/./chat", "/../chat", "/%2e/chat", "/%2E%2e/chat", "/.%2e/chat", "/chat/./chat", "/chat/../chat", "/chat/%2e%2e/chat"],
    ...["/demo/../chat", "/demo/%2e%2e/demo/chat", "/..%2f/chat", "/..%2fdemo/chat", "/demo%2f..%2fother/chat", "/{}/chat"],
    ...["/a%2Fb/chat", "/a%2fchat/chat", "/%00/chat", "/demo%00/chat", "/%ff/chat", "/%zz/chat", "/d\xe9mo/chat", "/a%20b/chat"],
    ...["/%/chat", "/a\\b/chat", "/a#b/chat", "/chat/%2e/v1/models", "/%2e%2e/img", "/%2e/system"],
  ])("%s never reaches anything, as it stands on the wire", async (path) => {
    const ana = await asker(chats);
    await must(ana.post("/demo/system", { content: "Be brief." }));
    const head = ["Host: a", "Connection: close", `Authorization: Bearer ${ana.token}`];
    const body = JSON.stringify({ content: "hi", url: IMAGE });
    const typed = ["Content-Type: application/json", `Content-Length: ${body.length}`];
    const answers = [
      await ask(chats.app.url, request([`GET ${path} HTTP/1.1`, ...head])),
      await ask(chats.app.url, request([`POST ${path} HTTP/1.1`, ...head, ...typed], body)),
    ];
    for (const { status, json } of answers) {
      expect([400, 405]).toContain(status);
      expect(json.error.source).toBe("gateway");
    }
    expect(answers.map(({ status }) => status)).toContain(400);
    expect(await chatsOf(ana)).toMatchObject([{ key: "demo", last_message: null }]);
    expect(chats.upstream.requests).toHaveLength(0);
  });
});

describe("what is a name of a chat", () => {
  test("every character that a key may have, one to 128 of them, and each is a chat of its own", async () => {
    const ana = await asker(chats);
    const all = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-";
    const odd = [
      "...",
      ".a",
      "a.",
      "-",
      "_",
      "~",
      "0",
      "1e3",
      "true",
      "null",
      "__proto__",
      "constructor",
      "hasOwnProperty",
      "a..b",
    ];
    const keys = [all, "x", "x".repeat(127), "x".repeat(128), ".".repeat(128), NOTHING.slice(1), `${NOTHING}0`, ...odd];
    for (const key of keys) {
      await must(ana.post(`/${key}/chat`, { content: key }));
      expect((await must(ana.get(`/${key}/chat`)))[0]).toEqual({ content: key, role: "user" });
      for (const body of [`id=${key}`, JSON.stringify({ id: key })]) {
        const headers = { "content-type": "application/x-www-form-urlencoded" };
        const { chat, messages } = await must(chats.app.call("/chat/read", { token: ana.token, body, headers }));
        expect([chat.key, messages.length]).toEqual([key, 1]);
      }
    }
    expect(await chatsOf(ana)).toHaveLength(keys.length);
  });

  test("keys differ by case, and not by how their characters are written in a path", async () => {
    const ana = await asker(chats);
    for (const key of ["demo", "Demo", "DEMO"]) await must(ana.post(`/${key}/chat`, { content: key }));
    expect(await chatsOf(ana)).toHaveLength(3);
    for (const path of ["/%64emo/chat", "/chat/d%65%6Do/chat", "/%64%65%6d%6f/chat"])
      expect((await must(ana.get(path)))[0].content).toBe("demo");
  });
});
