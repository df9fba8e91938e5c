import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import * as groups from "../lib/repo/groups.ts";
import * as users from "../lib/repo/users.ts";
import { person as newPerson, watchStream } from "./chat/support.ts";
import { encodings, expectRefusal } from "./support/answers.ts";
import { type Answer, type App, type Person, startApp } from "./support/app.ts";
import { type Fields, newChat, newGroup, newMessage, queryOf } from "./support/samples.ts";
import { startUpstream, type Upstream } from "./support/upstream.ts";

const ID = expect.stringMatching(/^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/);
const TIME = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);

let app: App;
let upstream: Upstream;
beforeAll(async () => {
  upstream = await startUpstream();
  app = await startApp({ API_URL: upstream.url });
});
afterAll(async () => {
  await app.close();
  await upstream.close();
});
beforeEach(() => upstream.reset());

const ask = ({ token }: Person, path: string, body: Fields) => app.call(path, { token, body });
async function must(person: Person, path: string, body: Fields = {}): Promise<Answer["json"]> {
  const { status, json, text } = await ask(person, path, body);
  expect({ path, status, text }).toMatchObject({ status: 200 });
  return json;
}
const people = (count: number) => Promise.all(Array.from({ length: count }, () => newPerson(app.deps.store)));
const ids = (list: readonly { id: string }[]) => list.map(({ id }) => id);
const say = async (person: Person, id: string, prompt: string, more: Fields = {}) =>
  (await must(person, "/chat/prompt", { id, prompt, ...more })).message;
const aside = (person: Person, id: string, prompt: string) => say(person, id, prompt, { otr: true });
/** What the model was sent last. */
const sentLast = () =>
  JSON.parse(upstream.requests.at(-1)?.body.toString() ?? "").messages as { role: string; content: string }[];

/** Every page of a list, from the first on. `between` happens after each. */
async function pages<T>(
  person: Person,
  path: string,
  fields: Fields,
  pick: (answer: Answer["json"]) => T[],
  between: () => Promise<unknown> = async () => {},
): Promise<T[][]> {
  const found: T[][] = [];
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const answer = await must(person, path, { ...fields, ...(cursor && { cursor }) });
    found.push(pick(answer));
    cursor = answer.next;
    await between();
  }
  return found;
}

/** Names that are kept to the letter, but for space around them. */
const NAMES = [
  "x",
  "My awesome group",
  "Grüße aus Köln",
  "日本語の会話",
  "محادثة",
  "👩‍👩‍👧‍👦🏳️‍🌈",
  "e\u0301 and é",
  "<script>alert('1')</script>",
  `"quoted" \\ 'other' %00 & = + ; --`,
  "x".repeat(128),
  "😀".repeat(128),
];
const NO_NAMES = [
  "",
  " ",
  "\t",
  "a\nb",
  "a\rb",
  "a\u0007b",
  "a\u007fb",
  "a\u0085b",
  "a\u2028b",
  "a\u2029b",
  "x".repeat(129),
  "😀".repeat(129),
];

describe("a group", () => {
  test("has its fields at the top where it is made and read, and under its name where it is changed", async () => {
    const [owner, member] = (await people(2)) as [Person, Person];
    const made = await must(owner, "/group/create", { name: "foobar", description: "my awesome group" });
    expect(made).toEqual({
      id: ID,
      name: "foobar",
      description: "my awesome group",
      role: "owner",
      created_at: TIME,
      updated_at: made.created_at,
    });
    expect(await must(owner, "/group/read", { id: made.id })).toEqual(made);
    expect(await must(owner, "/group/index")).toEqual({ groups: [made], next: null });
    expect(await must(owner, "/group/members/add", { group_id: made.id, user_ids: member.id })).toEqual({
      users: [
        { id: owner.id, username: owner.username, name: null, role: "owner" },
        { id: member.id, username: member.username, name: null, role: "member" },
      ],
    });
    const theirs = await must(member, "/group/read", { id: made.id });
    expect(theirs).toEqual({ ...made, role: "member", updated_at: TIME });
    expect(theirs.updated_at >= made.updated_at).toBe(true);
    expect(await must(member, "/group/index")).toEqual({ groups: [theirs], next: null });
    expect(await must(member, "/group/members", { id: made.id })).toEqual(
      await must(owner, "/group/members", { group_id: made.id }),
    );
    const { group } = await must(owner, "/group/update", { id: made.id, name: "barfoo" });
    expect(group).toEqual({ ...made, name: "barfoo", updated_at: TIME });
    expect((await must(owner, "/group/update", { id: made.id, description: "" })).group).toMatchObject({
      name: "barfoo",
      description: "",
    });
    expect((await must(owner, "/group/update", { id: made.id })).group).toMatchObject({ name: "barfoo", description: "" });
    expect(await must(owner, "/group/members/remove", { group_id: made.id, user_ids: member.id })).toMatchObject({
      users: [{ id: owner.id }],
    });
    expect(await must(owner, "/group/delete", { id: made.id })).toEqual({});
    expect(await must(owner, "/group/index")).toEqual({ groups: [], next: null });
  });

  test("of very many is gone for all who watch its chats, whom a frame names up to a bound", async () => {
    const [owner] = (await people(1)) as [Person];
    const { store } = app.deps;
    const { id: groupId } = await must(owner, "/group/create", { name: "Very many" });
    const { id: chatId } = await must(owner, "/chat/create", { group_id: groupId });
    const at = new Date();
    const many = Array.from({ length: 1_100 }, (_, n) => ({
      ...{ id: randomUUID(), username: `one-of-many-${n}`, name: null, passwordHash: "none", admin: false, createdAt: at },
    }));
    await store.atomic((q) => many.map((user) => users.insert(q, store, user)));
    const userIds = many.map(({ id }) => id);
    await groups.addMembers(store, groupId, userIds, "member", at);
    const watcher = await watchStream(`${app.url}/chat/stream?id=${chatId}`, owner.token);
    await must(owner, "/group/delete", { id: groupId });
    expect(await watcher.over).toBe("ended");
    const [told] = watcher.named("member") as { added: string[]; removed: string[] }[];
    expect(told).toMatchObject({ added: [], removed: expect.arrayContaining([owner.id]) });
    expect(told?.removed).toHaveLength(1_000);
  });

  test("needs a name, and no description", async () => {
    const [owner] = (await people(1)) as [Person];
    expectRefusal(await ask(owner, "/group/create", {}), 400, "invalid_input");
    expect(await must(owner, "/group/create", { name: "Bare" })).toMatchObject({ name: "Bare", description: "" });
    const text = "Several lines\r\n\tof text: é 日本 🎉";
    expect(await must(owner, "/group/create", { name: "x", description: text })).toMatchObject({ description: text });
  });
});

describe("a chat", () => {
  test("has its fields at the top where it is made, and under its name where it is read and changed", async () => {
    const [owner, user] = (await people(2)) as [Person, Person];
    const made = await must(owner, "/chat/create", { name: "foobar", model: "gpt-4" });
    expect(made).toEqual({
      ...{ id: ID, key: null, name: "foobar", model: "gpt-4", owner_id: owner.id, group_id: null },
      ...{ created_at: TIME, updated_at: made.created_at },
    });
    const me = { id: owner.id, username: owner.username, name: null, role: "owner" };
    expect(await must(owner, "/chat/read", { id: made.id })).toEqual({ chat: made, messages: [], users: [me], next: null });
    expect(await must(owner, "/chat/index")).toEqual({ chats: [{ ...made, last_message: null, unread: null }], next: null });
    const added = await must(owner, "/chat/user/add", { chat_id: made.id, user_id: user.id });
    expect(added).toEqual({ users: [me, { id: user.id, username: user.username, name: null, role: "member" }] });
    const { chat } = await must(owner, "/chat/update", { id: made.id, name: "barfoo" });
    expect(chat).toEqual({ ...made, name: "barfoo", updated_at: TIME });
    expect(chat.updated_at >= made.updated_at).toBe(true);
    expect((await must(owner, "/chat/update", { id: made.id, model: "gpt-4o" })).chat).toMatchObject({
      name: "barfoo",
      model: "gpt-4o",
    });
    expect((await must(owner, "/chat/update", { id: made.id })).chat).toMatchObject({ name: "barfoo", model: "gpt-4o" });
    expect(await must(owner, "/chat/user/remove", { chat_id: made.id, user_id: user.id })).toEqual({ users: [me] });
    expect(await must(owner, "/chat/stop", { id: made.id })).toEqual({ messages: [] });
    const before = Date.now();
    const { ticket, expires_at, ...nothing } = await must(owner, "/chat/ticket", { id: made.id });
    expect({ ticket, nothing }).toEqual({ ticket: expect.stringMatching(/^pgt_/), nothing: {} });
    expect(Date.parse(expires_at) - before).toBeGreaterThan(50_000);
    expect(Date.parse(expires_at) - before).toBeLessThan(120_000);
    expect(await must(owner, "/chat/delete", { id: made.id })).toEqual({});
    expect(await must(owner, "/chat/index")).toEqual({ chats: [], next: null });
  });

  test("takes a name and the configured model where it is not told any, and keeps the names of models as they are", async () => {
    const [owner] = (await people(1)) as [Person];
    expect(await must(owner, "/chat/create")).toMatchObject({ name: "New chat", model: "gpt-4o-mini" });
    for (const model of ["gpt-3", "gpt-4", "o5-unheard-of", "vendor/model:free"])
      expect(await must(owner, "/chat/create", { model })).toMatchObject({ model });
    const other = await startApp({ API_URL: upstream.url, DEFAULT_MODEL: "smart", MODEL_ALIASES: "smart=gpt-4o" });
    const person = await newPerson(other.deps.store);
    const chat = (await other.call("/chat/create", { token: person.token, body: {} })).json;
    expect(chat.model).toBe("smart");
    await other.call("/chat/prompt", { token: person.token, body: { id: chat.id, prompt: "Hello" } });
    expect(JSON.parse(upstream.requests[0]?.body.toString() ?? "").model).toBe("gpt-4o");
    await other.close();
  });

  test("of a group is seen by its members, whenever they came, each of them listed once", async () => {
    const [owner, member, later, guest] = (await people(4)) as [Person, Person, Person, Person];
    const group_id = await newGroup(app, owner);
    await must(owner, "/group/members/add", { group_id, user_id: member.id });
    const chat = await must(member, "/chat/create", { name: "foobar", group_id });
    expect(chat).toMatchObject({ group_id, owner_id: member.id });
    await must(member, "/chat/user/add", { chat_id: chat.id, user_ids: ids([owner, guest, member]) });
    await must(owner, "/group/members/add", { group_id, user_id: later.id });
    const { users } = await must(later, "/chat/read", { id: chat.id });
    expect(users[0]).toMatchObject({ id: member.id, role: "owner" });
    const rest = [owner, later, guest].sort((a, b) => (a.username < b.username ? -1 : 1));
    expect(users.slice(1)).toEqual(rest.map(({ id, username }) => ({ id, username, name: null, role: "member" })));
    for (const person of [owner, member, later, guest]) expect(ids((await must(person, "/chat/index")).chats)).toEqual([chat.id]);
    // A group's owner owns no chat by that; the chat's owner removes only whom they added.
    expectRefusal(await ask(owner, "/chat/update", { id: chat.id, name: "Mine" }), 403, "forbidden");
    expectRefusal(await ask(member, "/chat/user/remove", { chat_id: chat.id, user_id: later.id }), 404, "not_found");
    await must(member, "/chat/user/remove", { chat_id: chat.id, user_ids: ids([owner, guest]) });
    expect(ids((await must(member, "/chat/read", { id: chat.id })).users).sort()).toEqual(ids([owner, member, later]).sort());
  });
});

describe("names", () => {
  test.each(NAMES)("%j is kept as it is, in JSON and forms", async (name) => {
    const [owner] = (await people(1)) as [Person];
    for (const encode of Object.values(encodings)) {
      const asked = async (path: string, fields: Fields) => {
        const { body, headers } = encode(fields);
        const answer = await app.call(path, { body, headers: { ...headers, authorization: `Bearer ${owner.token}` } });
        expect(answer).toMatchObject({ status: 200 });
        return answer.json;
      };
      const group = await asked("/group/create", { name: ` ${name}\t` });
      expect((await asked("/group/update", { id: group.id, name })).group.name).toBe(name);
      expect([group.name, (await must(owner, "/group/read", { id: group.id })).name]).toEqual([name, name]);
      const chat = await asked("/chat/create", { name: `\n${name} ` });
      expect((await asked("/chat/update", { id: chat.id, name })).chat.name).toBe(name);
      expect([chat.name, (await must(owner, "/chat/read", { id: chat.id })).chat.name]).toEqual([name, name]);
    }
  });

  test.each(NO_NAMES)("%j is none", async (name) => {
    const [owner] = (await people(1)) as [Person];
    const [group, chat] = [await newGroup(app, owner), await newChat(app, owner, { name: "Before" })];
    for (const encode of Object.values(encodings))
      for (const [path, fields] of [
        ["/group/create", {}],
        ["/group/update", { id: group }],
        ["/chat/create", {}],
        ["/chat/update", { id: chat }],
      ] as const) {
        const { body, headers } = encode({ ...fields, name });
        const answer = await app.call(path, { body, headers: { ...headers, authorization: `Bearer ${owner.token}` } });
        expectRefusal(answer, 400, "invalid_input");
        expect(answer.json.error.param).toBe("name");
      }
    expect((await must(owner, "/chat/read", { id: chat })).chat.name).toBe("Before");
  });
});

describe("the list of groups", () => {
  test("comes in pages, the oldest first, and what is made meanwhile comes last", async () => {
    const [owner, member] = (await people(2)) as [Person, Person];
    const groups: string[] = [];
    for (let n = 0; n < 7; n++) groups.push(await newGroup(app, owner));
    await newGroup(app, member);
    const list = (answer: Answer["json"]) => ids(answer.groups);
    const [first, second, third] = [groups.slice(0, 3), groups.slice(3, 6), groups.slice(6)];
    expect(await pages(owner, "/group/index", { limit: 3 }, list)).toEqual([first, second, third]);
    expect(await pages(owner, "/group/index", { limit: 7 }, list)).toEqual([groups]);
    expect(await pages(owner, "/group/index", { limit: 1 }, list)).toEqual(groups.map((id) => [id]));
    let made = false;
    const seen = await pages(owner, "/group/index", { limit: 3 }, list, async () => {
      if (made) return;
      made = true;
      groups.push(await newGroup(app, owner));
      // Where the page ended may be gone by the time the next is asked for.
      await must(owner, "/group/delete", { id: groups[2] });
    });
    expect(seen.flat()).toEqual(groups);
    const query = await app.call(`/group/index?${queryOf({ limit: 2, cursor: groups[0] })}`, { token: owner.token });
    expect(list(query.json)).toEqual([groups[1], groups[3]]);
  });
});

describe("the list of chats", () => {
  test("comes in pages, the last changed first", async () => {
    const [owner] = (await people(1)) as [Person];
    const chats: string[] = [];
    for (let n = 0; n < 5; n++) chats.push(await newChat(app, owner));
    await aside(owner, chats[1] as string, "x");
    await must(owner, "/chat/update", { id: chats[3], name: "x" });
    const order = [3, 1, 4, 2, 0].map((n) => chats[n]);
    const list = (answer: Answer["json"]) => ids(answer.chats);
    expect(await pages(owner, "/chat/index", { limit: 2 }, list)).toEqual([order.slice(0, 2), order.slice(2, 4), order.slice(4)]);
    expect(await pages(owner, "/chat/index", { limit: 5 }, list)).toEqual([order]);
    expect(await pages(owner, "/chat/index", {}, list)).toEqual([order]);
  });

  test("leaves out and repeats none of those that changed in the same millisecond", async () => {
    const [owner] = (await people(1)) as [Person];
    const chats: string[] = [];
    for (let n = 0; n < 7; n++) chats.push(await newChat(app, owner));
    await sameInstant(chats);
    const list = (answer: Answer["json"]) => ids(answer.chats);
    for (const limit of [1, 2, 3, 7, 8])
      expect((await pages(owner, "/chat/index", { limit }, list)).flat()).toEqual(chats.toSorted().toReversed());
  });

  /** As when many change at once. */
  async function sameInstant(chatIds: readonly string[]): Promise<void> {
    const { db, chats } = app.deps.store;
    const updatedAt = new Date();
    const { inArray } = await import("drizzle-orm");
    await db
      .update(chats)
      .set({ updatedAt })
      .where(inArray(chats.id, [...chatIds]));
  }

  test("repeats nothing while people talk; what moves to its top is found by `after`", async () => {
    const [owner, user] = (await people(2)) as [Person, Person];
    const chats: string[] = [];
    for (let n = 0; n < 9; n++) {
      chats.push(await newChat(app, owner));
      await must(owner, "/chat/user/add", { chat_id: chats[n], user_id: user.id });
    }
    const before = (await must(owner, "/chat/index", { limit: 1 })).chats[0].updated_at;
    // Somebody speaks in a chat that was shown already, and in one that was not.
    const spoken = [chats[8], chats[0]] as string[];
    const seen = await pages(
      owner,
      "/chat/index",
      { limit: 2 },
      (answer) => ids(answer.chats),
      async () => {
        const id = spoken.shift();
        if (id) await aside(user, id, "Meanwhile");
      },
    );
    expect(new Set(seen.flat()).size).toBe(seen.flat().length);
    const changed = ids((await must(owner, "/chat/index", { after: before })).chats);
    expect(changed).toEqual([chats[0], chats[8]]);
    expect(new Set([...seen.flat(), ...changed])).toEqual(new Set(chats));
  });

  test("of a group, or changed after an instant, or both", async () => {
    const [owner, member] = (await people(2)) as [Person, Person];
    const [group, other] = [await newGroup(app, owner), await newGroup(app, owner)];
    await must(owner, "/group/members/add", { group_id: group, user_id: member.id });
    const own = await newChat(app, owner);
    const [first, second] = [await newChat(app, owner, { group_id: group }), await newChat(app, member, { group_id: group })];
    const elsewhere = await newChat(app, owner, { group_id: other });
    const list = async (person: Person, fields: Fields) => ids((await must(person, "/chat/index", fields)).chats);
    expect(await list(owner, {})).toEqual([elsewhere, second, first, own]);
    expect(await list(owner, { group_id: group })).toEqual([second, first]);
    expect(await list(member, {})).toEqual([second, first]);
    // A group that is not theirs and one that is none have the same chats.
    for (const group_id of [other, randomUUID()]) expect(await list(member, { group_id })).toEqual([]);
    const { updated_at } = (await must(owner, "/chat/read", { id: second })).chat;
    expect(await list(owner, { after: updated_at })).toEqual([elsewhere]);
    expect(await list(owner, { after: updated_at, group_id: group })).toEqual([]);
    await aside(member, first, "x");
    expect(await list(owner, { after: updated_at, group_id: group })).toEqual([first]);
    expect(await list(owner, { after: updated_at })).toEqual([first, elsewhere]);
    expect(await list(owner, { after: "2001-01-01" })).toHaveLength(4);
    expect(await list(owner, { after: "9999-01-01T00:00:00+02:00" })).toEqual([]);
    const query = await app.call(`/chat/index?${queryOf({ after: updated_at, group_id: other })}`, { token: owner.token });
    expect(ids(query.json.chats)).toEqual([elsewhere]);
    await must(owner, "/group/delete", { id: group });
    expect(await list(owner, {})).toEqual([elsewhere, own]);
  });

  test("shows a chat's last message, whoever's it is, and what others said after an instant", async () => {
    const [owner, user] = (await people(2)) as [Person, Person];
    const id = await newChat(app, owner);
    await must(owner, "/chat/user/add", { chat_id: id, user_id: user.id });
    const listed = async (person: Person, fields: Fields = {}) => (await must(person, "/chat/index", fields)).chats[0];
    expect(await listed(owner)).toMatchObject({ last_message: null, unread: null });
    const after = new Date(Date.now() - 60_000).toISOString();
    expect(await listed(owner, { after })).toMatchObject({ last_message: null, unread: 0 });
    const first = await say(owner, id, "Tell me about Spain");
    expect(await listed(owner)).toMatchObject({ last_message: first, unread: null });
    expect(await listed(owner, { after })).toMatchObject({ last_message: first, unread: 0 });
    expect(await listed(user, { after })).toMatchObject({ last_message: first, unread: 1 });
    const second = await aside(user, id, "It is warm there");
    expect(await listed(owner, { after })).toMatchObject({ last_message: second, unread: 1 });
    expect(second).toMatchObject({ user_id: user.id, username: user.username, otr: true });
    await aside(owner, id, "So I hear");
    await aside(user, id, "Or so they say");
    expect((await listed(owner, { after })).unread).toBe(2);
    // What is read up to an instant is no news any more.
    expect((await listed(user, { after: second.created_at })).unread).toBe(1);
    const last = await aside(owner, id, "Never mind");
    await must(owner, "/chat/message/delete", { id: last.id });
    expect((await listed(user)).last_message).toMatchObject({ prompt: "Or so they say" });
    expect((await listed(user, { after })).unread).toBe(2);
  });

  test.each([
    "x",
    "5",
    "5_5",
    `5_${"z".repeat(36)}`,
    `-5_${randomUUID()}`,
    `${"9".repeat(16)}_${randomUUID()}`,
    ` 5_${randomUUID()}`,
  ])("%j is no cursor of it", async (cursor) => {
    const [owner] = (await people(1)) as [Person];
    const answer = await ask(owner, "/chat/index", { cursor });
    expectRefusal(answer, 400, "invalid_input");
    expect(answer.json.error.param).toBe("cursor");
  });
});

test.each(["/group/index", "/chat/index", "/chat/read"])("a page of %s holds 1 to 1,000", async (path) => {
  const [owner] = (await people(1)) as [Person];
  const id = await newChat(app, owner);
  for (const limit of [0, -1, 1_001, 1.5]) expectRefusal(await ask(owner, path, { id, limit }), 400, "invalid_input");
  for (const limit of [1, 1_000]) await must(owner, path, { id, limit });
});

describe("the messages of a chat", () => {
  test("come in pages, the newest page first, each in its order, and stay there while people talk", async () => {
    const [owner, user] = (await people(2)) as [Person, Person];
    const id = await newChat(app, owner);
    await must(owner, "/chat/user/add", { chat_id: id, user_id: user.id });
    const said: string[] = [];
    for (let n = 1; n <= 10; n++) said.push((await aside(n % 2 ? owner : user, id, `Aside ${n}`)).prompt);
    const prompts = (answer: Answer["json"]): string[] => answer.messages.map(({ prompt }: { prompt: string }) => prompt);
    const expected = [said.slice(6), said.slice(2, 6), said.slice(0, 2)];
    expect(await pages(owner, "/chat/read", { id, limit: 4 }, prompts)).toEqual(expected);
    expect(await pages(owner, "/chat/read", { id, limit: 5 }, prompts)).toEqual([said.slice(5), said.slice(0, 5)]);
    expect(await pages(owner, "/chat/read", { id, limit: 10 }, prompts)).toEqual([said]);
    expect(await pages(owner, "/chat/read", { id }, prompts)).toEqual([said]);
    const meanwhile = () => aside(user, id, "Meanwhile");
    expect(await pages(owner, "/chat/read", { id, limit: 4 }, prompts, meanwhile)).toEqual(expected);
    const { messages } = await must(owner, "/chat/read", { id, limit: 1_000 });
    expect(messages.map(({ seq }: { seq: number }) => seq)).toEqual(messages.map((_: unknown, n: number) => n + 1));
  });

  test("are a hundred a page, unless told otherwise", async () => {
    const [owner] = (await people(1)) as [Person];
    const id = await newChat(app, owner);
    await Promise.all(Array.from({ length: 101 }, (_, n) => aside(owner, id, `Aside ${n}`)));
    const { messages, next } = await must(owner, "/chat/read", { id });
    expect(messages.map(({ seq }: { seq: number }) => seq)).toEqual(Array.from({ length: 100 }, (_, n) => n + 2));
    expect(next).toBe("2");
    const rest = await must(owner, "/chat/read", { id, cursor: next });
    expect({ seqs: rest.messages.map(({ seq }: { seq: number }) => seq), next: rest.next }).toEqual({ seqs: [1], next: null });
    const query = await app.call(`/chat/read?${queryOf({ id, cursor: next, limit: 1 })}`, { token: owner.token });
    expect(query.json).toEqual(rest);
  });

  test("begin wherever a cursor says, and one that is none is refused", async () => {
    const [owner] = (await people(1)) as [Person];
    const id = await newChat(app, owner);
    for (let n = 0; n < 3; n++) await newMessage(app, owner, id);
    const seqs = async (cursor: string) =>
      (await must(owner, "/chat/read", { id, cursor })).messages.map(({ seq }: { seq: number }) => seq);
    expect([await seqs("0"), await seqs("1"), await seqs("3"), await seqs("999999999999999")]).toEqual([
      [],
      [],
      [1, 2],
      [1, 2, 3],
    ]);
    for (const cursor of ["", "-1", "1.5", "1e3", "x", "1".repeat(16), " 1"])
      expectRefusal(await ask(owner, "/chat/read", { id, cursor }), 400, "invalid_input");
    expectRefusal(await ask(owner, "/chat/read", { id, cursor: 1 }), 400, "invalid_input");
  });

  test("are whole: who, what, by which model, at what cost, and when", async () => {
    const [owner] = (await people(1)) as [Person];
    const id = await newChat(app, owner, { model: "gpt-3" });
    const message = await say(owner, id, "Tell me about Spain");
    expect(message).toEqual({
      ...{ id: ID, chat_id: id, seq: 1, user_id: owner.id, username: owner.username, prompt: "Tell me about Spain" },
      ...{
        reply: expect.stringMatching(/^Hello from the upstream: Straße, 日本語, 🎉\.$/),
        model: "gpt-3",
        otr: false,
        state: "done",
      },
      ...{
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
    expect((await must(owner, "/chat/read", { id })).messages).toEqual([message]);
  });
});

describe("a message that is deleted", () => {
  test("is gone for everyone: from the chat, its list and the context; those who watch are told; its number is not given again", async () => {
    const [owner, user, other] = (await people(3)) as [Person, Person, Person];
    const id = await newChat(app, owner);
    await must(owner, "/chat/user/add", { chat_id: id, user_ids: ids([user, other]) });
    const [kept, gone, last] = [
      await say(user, id, "Keep this"),
      await say(user, id, "Forget this"),
      await say(owner, id, "And this"),
    ];
    expect(sentLast().map(({ content }) => content)).toEqual(expect.arrayContaining(["Keep this", "Forget this", "And this"]));
    const watcher = await watchStream(`${app.url}/chat/stream?id=${id}`, other.token);
    expectRefusal(await ask(other, "/chat/message/delete", { id: gone.id }), 403, "forbidden");
    expectRefusal(await ask(user, "/chat/message/delete", { id: last.id }), 403, "forbidden");
    expect(await must(user, "/chat/message/delete", { id: gone.id })).toEqual({});
    expectRefusal(await ask(user, "/chat/message/delete", { id: gone.id }), 404, "not_found");
    expect(await must(owner, "/chat/message/delete", { id: last.id })).toEqual({});
    await watcher.until("both are told", (it) => it.named("deleted").length === 2);
    expect(watcher.named("deleted")).toEqual([{ message: { id: gone.id } }, { message: { id: last.id } }]);
    watcher.leave();
    for (const person of [owner, user, other]) {
      expect(ids((await must(person, "/chat/read", { id })).messages)).toEqual([kept.id]);
      expect((await must(person, "/chat/index")).chats[0].last_message.id).toBe(kept.id);
    }
    const next = await say(other, id, "What was it?");
    expect(next.seq).toBe(4);
    expect(sentLast().map(({ content }) => content)).toEqual(["Keep this", kept.reply, "What was it?"]);
    const rows = await app.deps.store.db.select().from(app.deps.store.messages);
    expect(rows.map((row) => JSON.stringify(row)).join()).not.toMatch(/Forget this|And this/);
  });

  test("of somebody else's may be the owner's to delete, but not a group's owner's", async () => {
    const [groupOwner, owner, member] = (await people(3)) as [Person, Person, Person];
    const group_id = await newGroup(app, groupOwner);
    await must(groupOwner, "/group/members/add", { group_id, user_ids: ids([owner, member]) });
    const id = await newChat(app, owner, { group_id });
    const said = await newMessage(app, member, id);
    expectRefusal(await ask(groupOwner, "/chat/message/delete", { id: said }), 403, "forbidden");
    await must(owner, "/chat/message/delete", { id: said });
    expect((await must(member, "/chat/read", { id })).messages).toEqual([]);
  });

  test("frees its id, and what is said under it then is a new message", async () => {
    const [owner] = (await people(1)) as [Person];
    const id = await newChat(app, owner);
    const message_id = randomUUID();
    await say(owner, id, "One thing", { message_id, otr: true });
    await must(owner, "/chat/message/delete", { id: message_id });
    expect(await say(owner, id, "Another", { message_id })).toMatchObject({
      id: message_id,
      prompt: "Another",
      seq: 2,
      state: "done",
    });
  });
});

describe("what is said off the record", () => {
  test("is shown to those who see the chat, and is nothing to the model", async () => {
    const [owner, user] = (await people(2)) as [Person, Person];
    const id = await newChat(app, owner);
    await must(owner, "/chat/user/add", { chat_id: id, user_id: user.id });
    const watcher = await watchStream(`${app.url}/chat/stream?id=${id}`, user.token);
    const answer = await must(owner, "/chat/prompt", { id, prompt: "Between us", otr: true, context: 50, model: "gpt-4o" });
    expect(answer).toEqual({
      reply: "",
      message: {
        ...{
          id: ID,
          chat_id: id,
          seq: 1,
          user_id: owner.id,
          username: owner.username,
          prompt: "Between us",
          reply: "",
          model: "gpt-4o",
        },
        ...{
          otr: true,
          state: "off_record",
          stopped_by: null,
          error_code: null,
          flagged: null,
          image: null,
          prompt_tokens: null,
          completion_tokens: null,
        },
        ...{ created_at: TIME, updated_at: TIME },
      },
    });
    expect(upstream.requests).toEqual([]);
    await watcher.ended("Between us");
    expect(watcher.heard.filter(({ event }) => event === null)).toMatchObject([
      { data: { message: { id: answer.message.id, user_id: owner.id, prompt: "Between us", reply: "" }, partial: false } },
    ]);
    watcher.leave();
    expect((await must(user, "/chat/read", { id })).messages).toEqual([answer.message]);
    await say(user, id, "Hello");
    expect(sentLast().map(({ content }) => content)).toEqual(["Hello"]);
    // A form says it, too.
    const { body, headers } = encodings.form({ id, prompt: "Between us again", otr: "true" });
    const form = await app.call("/chat/prompt", { body, headers: { ...headers, authorization: `Bearer ${owner.token}` } });
    expect(form.json).toMatchObject({ reply: "", message: { otr: true, seq: 3 } });
    expect(upstream.requests).toHaveLength(1);
  });
});
