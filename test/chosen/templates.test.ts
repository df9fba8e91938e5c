import { randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { answerEach, type Chats, startChats, watchStream } from "../chat/support.ts";
import { encodings, expectRefusal } from "../support/answers.ts";
import type { Answer } from "../support/app.ts";
import { NOTHING, newGroup } from "../support/samples.ts";
import { replyText } from "../support/upstream-answers.ts";
import { type Asker, asker, askers, lastTurns, must } from "./asker.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

const ID = expect.stringMatching(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
const TIME = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
const TRANSLATE = "Translate {{text}} into {{ language }}. Only {{text}}!";

const save = async (by: Asker, text: string, more: Record<string, unknown> = {}): Promise<string> =>
  (await must(by.post("/chat/template/create", { name: "A template", text, ...more }))).id;
const listed = async (by: Asker, query = ""): Promise<string[]> =>
  (await must(by.get(`/chat/template/index${query}`))).templates.map(({ id }: { id: string }) => id);
/** A group with these members besides its owner. */
async function groupOf(owner: Asker, ...members: Asker[]): Promise<string> {
  const id = await newGroup(chats.app, owner);
  const user_ids = members.map((it) => it.id);
  if (members.length > 0) await must(owner.post("/group/members/add", { group_id: id, user_ids }));
  return id;
}
const leave = (by: Asker, group_id: string) => must(by.post("/group/members/remove", { group_id, user_ids: [by.id] }));
/** What somebody may do with a template: the statuses of reading, changing and using it, and whether it is listed. */
async function may(by: Asker, id: string) {
  const [read, update, use] = [
    await by.get(`/chat/template/read?id=${id}`),
    await by.post("/chat/template/update", { id, name: "Renamed" }),
    await by.post("/mine/chat", { template: id, fields: {} }),
  ];
  for (const answer of [read, update, use]) if (answer.status >= 400) expectRefusal(answer, answer.status);
  return { read: read.status, update: update.status, use: use.status, listed: (await listed(by)).includes(id) };
}
const ALL = { read: 200, update: 200, use: 200, listed: true };
const USES = { ...ALL, update: 403 };
const NOT_THERE = { read: 404, update: 404, use: 404, listed: false };

describe("a template", () => {
  test("is saved, read, listed, changed and deleted by its owner; its fields are those in its text, each once", async () => {
    const ana = await asker(chats);
    const answer = await ana.post("/chat/template/create", { name: "  Translate ", text: TRANSLATE });
    const expected = {
      id: ID,
      name: "Translate",
      text: TRANSLATE,
      fields: ["text", "language"],
      owner_id: ana.id,
      group_id: null,
    };
    expect(answer.json).toEqual({ ...expected, created_at: TIME, updated_at: TIME });
    const template = answer.json;
    for (const read of [await ana.get(`/chat/template/read?id=${template.id}`), await ana.post("/chat/template/read", template)])
      expect([read.status, read.json]).toEqual([200, template]);
    expect(await must(ana.post("/chat/template/index"))).toEqual({ templates: [template], next: null });
    const { id } = template;
    const changed = await must(ana.post("/chat/template/update", { id, text: "Say {{what}}" }));
    expect(changed).toEqual({ ...template, text: "Say {{what}}", fields: ["what"], updated_at: TIME });
    expect(await must(ana.post("/chat/template/update", { id, name: "Say" }))).toMatchObject({
      name: "Say",
      text: "Say {{what}}",
    });
    expect(await must(ana.post("/chat/template/delete", { id }))).toEqual({});
    expect(await listed(ana)).toEqual([]);
    for (const path of ["read", "update", "delete"])
      expectRefusal(await ana.post(`/chat/template/${path}`, { id }), 404, "not_found");
  });

  test.each<[text: string, fields: string[]]>([
    ["no field at all", []],
    ["{{a}}{{b}}{{a}}", ["a", "b"]],
    ["{{ a }} {{  b}} {{c\t}} {{\nd\n}}", ["a", "b", "c", "d"]],
    ["{{first_name}} {{A}} {{a}} {{0}} {{_}}", ["first_name", "A", "a", "0", "_"]],
    ["{a} {{}} {{ }} {{a b}} {{a-b}} {{a.b}} {{ü}} {{a} } { {a}} {{a", []],
    ["{{{a}}} {{{{b}}}}", ["a", "b"]],
    [`{{${"x".repeat(64)}}} {{${"x".repeat(65)}}}`, ["x".repeat(64)]],
    ["{{toString}} {{hasOwnProperty}}", ["toString", "hasOwnProperty"]],
  ])("of %j has the fields %j", async (text, fields) => {
    const ana = await asker(chats);
    expect(await must(ana.post("/chat/template/create", { name: "Fields", text }))).toMatchObject({ text, fields });
  });

  test("has a name of 1 to 128 characters and a text of 1 to 32,768", async () => {
    const ana = await asker(chats);
    const [name, text] = ["x".repeat(128), "x".repeat(32_768)];
    const { id } = await must(ana.post("/chat/template/create", { name, text }));
    const wrong: [param: string, fields: Record<string, unknown>][] = [
      ...["", " ", "x".repeat(129), "a\nb", 5, null].map((name): [string, object] => ["name", { name, text: "x" }]),
      ...["", "x".repeat(32_769), 5, null, ["x"]].map((text): [string, object] => ["text", { name: "x", text }]),
      ...["", "none", "team", 5].map((group_id): [string, object] => ["group_id", { name: "x", text: "x", group_id }]),
    ] as [string, Record<string, unknown>][];
    for (const [param, fields] of wrong) {
      const refused = [await ana.post("/chat/template/create", fields)];
      if (fields.group_id !== "") refused.push(await ana.post("/chat/template/update", { id, ...fields }));
      for (const answer of refused) {
        expectRefusal(answer, 400, "invalid_input");
        expect(answer.json.error.param).toBe(param);
      }
    }
    for (const missing of [{ name: "x" }, { text: "x" }])
      expectRefusal(await ana.post("/chat/template/create", missing), 400, "invalid_input");
    expect(await must(ana.get(`/chat/template/read?id=${id}`))).toMatchObject({ name, text });
    expect(await listed(ana)).toEqual([id]);
  });

  test("is one of a list that is read by pages, the oldest first, of all or of a group", async () => {
    const [ana, ben] = (await askers(chats, 2)) as [Asker, Asker];
    const groupId = await groupOf(ana, ben);
    const ids: string[] = [];
    for (let n = 0; n < 12; n++) ids.push(await save(n % 2 ? ben : ana, `Number ${n}`, n % 3 ? { group_id: groupId } : {}));
    const expected = ids.filter((_, n) => n % 3 > 0 || n % 2 === 0);
    for (const limit of [1, 3, 5, 9, 10, 11, 1_000]) {
      const seen: string[] = [];
      for (let cursor: string | null = ""; cursor !== null; ) {
        const page = await must(ana.post("/chat/template/index", { limit, ...(cursor !== "" && { cursor }) }));
        expect(page.templates.length).toBeLessThanOrEqual(limit);
        seen.push(...page.templates.map(({ id }: { id: string }) => id));
        cursor = page.next;
      }
      expect(seen).toEqual(expected);
    }
    expect(await listed(ana, `?group_id=${groupId}`)).toEqual(ids.filter((_, n) => n % 3 > 0));
    expect(await listed(ana, `?group_id=${NOTHING}`)).toEqual([]);
    for (const query of ["limit=0", "limit=1001", "cursor=x", "group_id=x"])
      expectRefusal(await ana.get(`/chat/template/index?${query}`), 400, "invalid_input");
  });
});

describe("who sees a template, and who changes it", () => {
  test("of one's own: oneself alone", async () => {
    const [ana, ben] = (await askers(chats, 2)) as [Asker, Asker];
    await groupOf(ana, ben);
    const id = await save(ana, "Mine");
    expect(await may(ana, id)).toEqual(ALL);
    expect(await may(ben, id)).toEqual(NOT_THERE);
    const [theirs, absent] = await Promise.all([id, NOTHING].map((it) => ben.get(`/chat/template/read?id=${it}`)));
    expect({ ...theirs?.json.error, request_id: "" }).toEqual({ ...absent?.json.error, request_id: "" });
    expectRefusal(await ben.post("/chat/template/delete", { id }), 404, "not_found");
  });

  test("shared with a group: its members see and use it, its owner changes it, nobody else knows of it", async () => {
    const [ana, ben, stranger] = (await askers(chats, 3)) as [Asker, Asker, Asker];
    const groupId = await groupOf(ben, ana);
    const id = await save(ana, "Ours", { group_id: groupId });
    expect(await may(ana, id)).toEqual(ALL);
    expect(await may(ben, id)).toEqual(USES);
    expect(await may(stranger, id)).toEqual(NOT_THERE);
    expectRefusal(await ben.post("/chat/template/delete", { id }), 403, "forbidden");
    expectRefusal(await stranger.post("/chat/template/delete", { id }), 404, "not_found");
    expect(await listed(stranger, `?group_id=${groupId}`)).toEqual([]);
    expect(await must(ben.get(`/chat/template/read?id=${id}`))).toMatchObject({ owner_id: ana.id, group_id: groupId });
  });

  test("is shared with groups that its owner is a member of, and with no other", async () => {
    const [ana, ben] = (await askers(chats, 2)) as [Asker, Asker];
    const [hers, his, once] = [await groupOf(ana), await groupOf(ben), await groupOf(ben, ana)];
    await leave(ana, once);
    const id = await save(ana, "Mine");
    for (const group_id of [his, once, NOTHING])
      for (const [path, fields] of [
        ["create", { name: "x", text: "x" }],
        ["update", { id }],
      ] as const)
        expectRefusal(await ana.post(`/chat/template/${path}`, { ...fields, group_id }), 404, "not_found");
    expect(await must(ana.get(`/chat/template/read?id=${id}`))).toMatchObject({ group_id: null, name: "A template" });
    expect(await must(ana.post("/chat/template/update", { id, group_id: hers }))).toMatchObject({ group_id: hers });
    expect(await listed(ben)).toEqual([]);
  });

  test("an empty group_id shares it no more, and a change without one leaves it shared", async () => {
    const [ana, ben] = (await askers(chats, 2)) as [Asker, Asker];
    const groupId = await groupOf(ana, ben);
    const id = await save(ana, "Ours", { group_id: groupId });
    expect(await must(ana.post("/chat/template/update", { id, text: "Still ours" }))).toMatchObject({ group_id: groupId });
    expect(await may(ben, id)).toEqual(USES);
    expect(await must(ana.post("/chat/template/update", { id, group_id: "" }))).toMatchObject({ group_id: null });
    expect(await may(ben, id)).toEqual(NOT_THERE);
    expect(await may(ana, id)).toEqual(ALL);
  });

  test("who left the group, or was removed, sees it no more", async () => {
    const [ana, ben, cleo] = (await askers(chats, 3)) as [Asker, Asker, Asker];
    const groupId = await groupOf(ana, ben, cleo);
    const id = await save(ana, "Ours", { group_id: groupId });
    await leave(ben, groupId);
    await must(ana.post("/group/members/remove", { group_id: groupId, user_ids: [cleo.id] }));
    for (const gone of [ben, cleo]) expect(await may(gone, id)).toEqual(NOT_THERE);
    expect(await may(ana, id)).toEqual(ALL);
  });

  test("after its owner left the group it is the group's, in the hands of its owner; their own stay theirs", async () => {
    const [ana, ben, cleo] = (await askers(chats, 3)) as [Asker, Asker, Asker];
    const groupId = await groupOf(ben, ana, cleo);
    const [shared, own] = [await save(ana, "Ours", { group_id: groupId }), await save(ana, "Mine")];
    await leave(ana, groupId);
    expect(await may(ana, shared)).toEqual(NOT_THERE);
    expect(await may(ben, shared)).toEqual(ALL);
    expect(await may(cleo, shared)).toEqual(USES);
    expect(await may(ana, own)).toEqual(ALL);
    expect(await may(ben, own)).toEqual(NOT_THERE);
  });

  test("after the group was deleted it is its owner's alone", async () => {
    const [ana, ben, cleo] = (await askers(chats, 3)) as [Asker, Asker, Asker];
    const groupId = await groupOf(ben, ana, cleo);
    const id = await save(ana, "Ours", { group_id: groupId });
    await must(ben.post("/group/delete", { id: groupId }));
    expect(await may(ana, id)).toEqual(ALL);
    for (const other of [ben, cleo]) expect(await may(other, id)).toEqual(NOT_THERE);
    expect(await must(ana.get(`/chat/template/read?id=${id}`))).toMatchObject({ group_id: null, owner_id: ana.id });
  });
});

/** Prompts with a template in both places where that can be done. */
const PLACES = [
  ["/chat/prompt", { id: "demo" }],
  ["/demo/chat", {}],
] as const;
const rowsOf = async (by: Asker) => (await must(by.get("/chat/read?id=demo&limit=1000"))).messages;

describe.each(PLACES)("a prompt by %s with a template", (path, chat) => {
  /** Somebody with a chat `demo` in which nothing was said. */
  const someone = async (): Promise<Asker> => {
    const by = await asker(chats);
    await must(by.post("/demo/system", { content: "" }));
    return by;
  };
  const prompt = (by: Asker, fields: Record<string, unknown>): Promise<Answer> => by.post(path, { ...chat, ...fields });

  test("is stored and sent in its words, filled; as a JSON object, and as JSON text in JSON and in a form", async () => {
    const ana = await someone();
    const template = await save(ana, TRANSLATE);
    const fields = { text: "“Grüße” & 100%", language: "日本語" };
    const filled = "Translate “Grüße” & 100% into 日本語. Only “Grüße” & 100%!";
    const form = encodings.form({ ...chat, template, fields: JSON.stringify(fields) });
    const answers = [
      await prompt(ana, { template, fields }),
      await prompt(ana, { template, fields: JSON.stringify(fields) }),
      await chats.app.call(path, { ...form, token: ana.token }),
    ];
    for (const [n, answer] of answers.entries()) {
      expect(answer.status).toBe(200);
      expect(answer.json.reply ?? answer.json.content).toBe(replyText);
      expect((await rowsOf(ana))[n]).toMatchObject({ prompt: filled, reply: replyText, state: "done", seq: n + 1 });
    }
    expect((await lastTurns(chats)).filter(({ role }) => role === "user").map(({ content }) => content)).toEqual([
      filled,
      filled,
      filled,
    ]);
  });

  test.each<[text: string, fields: Record<string, string>, filled: string]>([
    ["no field at all", {}, "no field at all"],
    ["{{ a }}, {{a}}, {{\ta\n}}", { a: "x" }, "x, x, x"],
    ["{{a}} {{b}}", { a: "{{b}}", b: "{{a}}" }, "{{b}} {{a}}"],
    ["{{a}}b}} {{b}}", { a: "{{", b: "B" }, "{{b}} B"],
    ["[{{a}}]", { a: "$& $1 $$ $` $' $<a> \\1 \\" }, "[$& $1 $$ $` $' $<a> \\1 \\]"],
    ["[{{a}}]", { a: "" }, "[]"],
    ["[{{a}}]", { a: " \n\u2028🎉 " }, "[ \n\u2028🎉 ]"],
    ["{a} {{}} {{a-b}} {{a}}", { a: "x" }, "{a} {{}} {{a-b}} x"],
    ["{{toString}}{{valueOf}}", { toString: "x", valueOf: "y" }, "xy"],
  ])("of %j with %j says %j", async (text, fields, filled) => {
    const ana = await someone();
    const template = await save(ana, text);
    await must(prompt(ana, { template, fields }));
    if (Object.keys(fields).length === 0) await must(prompt(ana, { template, context: 0 }));
    for (const message of await rowsOf(ana)) expect(message.prompt).toBe(filled);
    expect((await lastTurns(chats)).at(-1)).toEqual({ role: "user", content: filled });
  });

  const own = path === "/chat/prompt" ? "prompt" : "content";
  const AB = { a: "x", b: "y" };
  test.each<[what: string, param: string, fields: (template: string) => Record<string, unknown>]>([
    ["without one of its fields", "fields", (template) => ({ template, fields: { a: "x" } })],
    ["without its fields", "fields", (template) => ({ template })],
    ["with a field that it does not have", "fields", (template) => ({ template, fields: { ...AB, c: "z" } })],
    ["and a prompt of one's own", own, (template) => ({ template, fields: AB, [own]: "hi" })],
    ["and no template", "template|fields", () => ({ fields: AB, [own]: "hi" })],
    ["and neither prompt nor template", own, () => ({})],
    ["and fields alone", "template|fields", () => ({ fields: AB })],
    ["that is no id", "template", () => ({ template: "greeting", fields: AB })],
    ["whose fields are a list", "fields", (template) => ({ template, fields: ["x", "y"] })],
    ["whose fields are a list in text", "fields", (template) => ({ template, fields: '["x","y"]' })],
    ["whose fields are text that is no JSON", "fields", (template) => ({ template, fields: "a=x" })],
    ["whose fields are empty text", "fields", (template) => ({ template, fields: "" })],
    ["whose fields are null in text", "fields", (template) => ({ template, fields: "null" })],
    ["whose fields are a number", "fields", (template) => ({ template, fields: 5 })],
    ["whose fields are null", "fields", (template) => ({ template, fields: null })],
    ["with a number for a field", "fields", (template) => ({ template, fields: { a: 1, b: "y" } })],
    ["with a number for a field in text", "fields", (template) => ({ template, fields: '{"a":1,"b":"y"}' })],
    ["with null for a field", "fields", (template) => ({ template, fields: { a: null, b: "y" } })],
    ["with an object for a field", "fields", (template) => ({ template, fields: { a: { b: "c" }, b: "y" } })],
    ["with an odd name of a field", "fields", (template) => ({ template, fields: { ...AB, "a b": "z" } })],
    ["with __proto__ in text", "fields", (template) => ({ template, fields: '{"__proto__":"z","a":"x","b":"y"}' })],
    ["with constructor in text", "fields", (template) => ({ template, fields: '{"constructor":"z","a":"x","b":"y"}' })],
    ["with NUL in text", "fields", (template) => ({ template, fields: '{"a":"\\u0000","b":"y"}' })],
    ["with half of a surrogate pair in text", "fields", (template) => ({ template, fields: '{"a":"\\ud800","b":"y"}' })],
    ["with a field twice in text", "fields", (template) => ({ template, fields: '{"a":"1","a":"2","b":"y"}' })],
    ["that gets too long", "fields", (template) => ({ template, fields: { a: "x".repeat(140_000), b: "y" } })],
  ])("%s is refused with the parameter named, and nothing is stored or asked", async (_what, param, fields) => {
    const ana = await someone();
    const answer = await prompt(ana, fields(await save(ana, "{{a}} {{b}} {{a}}")));
    expectRefusal(answer, 400, "invalid_input");
    expect(answer.json.error.param?.split(".")[0]).toMatch(new RegExp(`^(${param})$`));
    expect(answer.json.error.message).not.toMatch(/Invalid input/i);
    expect(await rowsOf(ana)).toEqual([]);
    expect(chats.upstream.requests).toHaveLength(0);
  });

  test("with __proto__ as the key of a JSON body is refused as everywhere", async () => {
    const ana = await someone();
    const template = await save(ana, "{{a}}");
    const body = JSON.stringify({ ...chat, template, fields: { a: "x" } }).replace('"a":"x"', '"a":"x","__proto__":"z"');
    const answer = await chats.app.call(path, { token: ana.token, body, headers: { "content-type": "application/json" } });
    expectRefusal(answer, 400, "bad_json");
    expect(await rowsOf(ana)).toEqual([]);
  });

  test("that would be longer than any text can be is refused like any that is too long", async () => {
    const ana = await someone();
    const template = await save(ana, "{{a}}".repeat(6_500));
    const answer = await prompt(ana, { template, fields: { a: "x".repeat(250_000) } });
    expectRefusal(answer, 400, "invalid_input");
    expect(answer.json.error.param).toBe("fields");
    expect(await rowsOf(ana)).toEqual([]);
  });

  test("that would be blank is refused, and one as long as a prompt may be is not", async () => {
    const ana = await someone();
    const template = await save(ana, "{{a}}{{b}}");
    for (const fields of [
      { a: "", b: "" },
      { a: " ", b: "\n" },
    ])
      expectRefusal(await prompt(ana, { template, fields }), 400, "invalid_input");
    const twice = await save(ana, "{{a}}{{a}}");
    await must(prompt(ana, { template: twice, fields: { a: "x".repeat(131_072) } }));
    expectRefusal(await prompt(ana, { template: twice, fields: { a: "x".repeat(131_073) } }), 400, "invalid_input");
    expect((await rowsOf(ana)).map(({ prompt }: { prompt: string }) => prompt.length)).toEqual([262_144]);
  });

  test("that one does not see is 404, like one that is absent, and nothing is stored or made", async () => {
    const [ana, ben] = [await someone(), await asker(chats)];
    const template = await save(ana, "swordfish {{a}}");
    const refusals: Answer[] = [];
    for (const it of [template, NOTHING]) refusals.push(await prompt(ben, { template: it, fields: { a: "x" } }));
    for (const refusal of refusals) {
      expectRefusal(refusal, 404, "not_found");
      expect(refusal.json.error.param).toBe("template");
    }
    expect(new Set(refusals.map(({ json }) => json.error.message)).size).toBe(1);
    expect((await must(ben.get("/chat/index"))).chats).toEqual([]);
    expect(chats.upstream.requests).toHaveLength(0);
  });

  const changes: [what: string, change: (by: Asker, id: string) => Promise<unknown>][] = [
    ["not changed", async () => {}],
    ["given another text", (by, id) => must(by.post("/chat/template/update", { id, text: "Shout {{a}} {{b}}" }))],
    ["given other fields", (by, id) => must(by.post("/chat/template/update", { id, text: "Shout {{c}}" }))],
    ["deleted", (by, id) => must(by.post("/chat/template/delete", { id }))],
  ];
  test.each(changes)(
    "repeated with its message_id is one call, and the same answer, when it was %s meanwhile",
    async (_what, change) => {
      answerEach(chats.upstream, (said) => `re: ${said}`);
      const ana = await someone();
      const template = await save(ana, "Say {{a}} {{b}}");
      const said = { template, fields: { a: "x", b: "y" }, message_id: randomUUID() };
      const first = await Promise.all(Array.from({ length: 5 }, () => prompt(ana, said)));
      await change(ana, template);
      const again = [await prompt(ana, said), await prompt(ana, { ...said, fields: JSON.stringify(said.fields) })];
      for (const answer of [...first, ...again]) expect([answer.status, answer.json]).toEqual([200, first[0]?.json]);
      expect(chats.upstream.requests).toHaveLength(1);
      expect(await rowsOf(ana)).toMatchObject([{ id: said.message_id, prompt: "Say x y", reply: "re: Say x y" }]);
    },
  );

  test("repeated with its fields in another order is the same prompt: an object has none", async () => {
    const ana = await someone();
    const said = { template: await save(ana, "Say {{a}} {{b}}"), message_id: randomUUID() };
    const first = await must(prompt(ana, { ...said, fields: { a: "x", b: "y" } }));
    expect(await must(prompt(ana, { ...said, fields: { b: "y", a: "x" } }))).toEqual(first);
    expect(chats.upstream.requests).toHaveLength(1);
  });

  test("with its message_id and other fields, another template or the words themselves is refused", async () => {
    const ana = await someone();
    const [template, other] = [await save(ana, "Say {{a}}"), await save(ana, "Say {{a}}")];
    const said = { template, fields: { a: "x" }, message_id: randomUUID() };
    await must(prompt(ana, said));
    for (const differs of [{ fields: { a: "y" } }, { template: other }, { model: "gpt-4o" }])
      expectRefusal(await prompt(ana, { ...said, ...differs }), 422, "idempotency_mismatch");
    const words = { [own]: "Say x", message_id: said.message_id };
    expectRefusal(await prompt(ana, words), 422, "idempotency_mismatch");
    expect(chats.upstream.requests).toHaveLength(1);
  });

  test("keeps in its event what was given, not what it became", async () => {
    const ana = await someone();
    const template = await save(ana, "Say {{a}}");
    const event = await chats.eventOf(await prompt(ana, { template, fields: { a: "x" } }));
    expect(JSON.parse(event.requestBody ?? "")).toMatchObject({ template, fields: { a: "x" } });
    expect(event).toMatchObject({ status: 200, promptTokens: 9, completionTokens: 12 });
  });
});

test("what is said off the record with a template is shown to members, and reaches no model, event or line of the log", async () => {
  const ana = await asker(chats);
  await must(ana.post("/demo/system", { content: "" }));
  const template = await save(ana, "Between us: {{what}}");
  const viewer = await watchStream(`${chats.app.url}/chat/stream?id=demo`, ana.token);
  const fields = { what: "the-eagle-has-landed" };
  const said = { id: "demo", template, otr: true };
  const form = encodings.form({ ...said, fields: JSON.stringify(fields) });
  const answers = [
    await ana.post("/chat/prompt", { ...said, fields }),
    await chats.app.call("/chat/prompt", { ...form, token: ana.token }),
    await ana.post("/chat/prompt", { ...said, fields: { ...fields, other: "the-eagle-has-landed" } }),
    await ana.post("/chat/prompt", { ...said, template: NOTHING, fields }),
  ];
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 400, 404]);
  for (const { json } of answers.slice(0, 2)) {
    expect(json.message).toMatchObject({ prompt: "Between us: the-eagle-has-landed", state: "off_record", otr: true, reply: "" });
    expect(await viewer.ended(json.message.id)).toMatchObject({ whole: "", prompt: json.message.prompt });
  }
  viewer.leave();
  await must(ana.post("/demo/chat", { content: "and now?" }));
  expect(await lastTurns(chats)).toEqual([{ role: "user", content: "and now?" }]);
  for (const answer of answers) expect((await chats.eventOf(answer)).requestBody).toBeNull();
  const { db, events, outcomes } = chats.app.deps.store;
  const audit = [await db.select().from(events), await db.select().from(outcomes), chats.lines];
  expect(JSON.stringify(audit).includes("the-eagle-has-landed")).toBe(false);
});
