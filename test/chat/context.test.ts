import { eq } from "drizzle-orm";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { faults } from "../support/upstream.ts";
import { answerEach, type Chat, type Chats, chatOf, modelFor, person, sent, startChats, type Turn } from "./support.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

/** What the model was sent for the newest prompt with these words. */
async function contextFor(prompt: string, { upstream }: Chats = chats): Promise<Turn[]> {
  const bodies = await Promise.all(upstream.requests.map(sent));
  const found = bodies.findLast(({ messages }) => messages.at(-1)?.content === prompt);
  if (!found) throw new Error(`the upstream was not asked ${prompt}`);
  return found.messages;
}
const user = (content: string, name?: string): Turn => ({ role: "user", content, ...(name !== undefined && { name }) });
const pair = (prompt: string, reply = `re: ${prompt}`, name?: string): Turn[] => [
  user(prompt, name),
  { role: "assistant", content: reply },
];

/** Prompts, one after the other, each answered `re: …`. */
async function talk(chat: Chat, prompts: readonly string[]): Promise<void> {
  for (const prompt of prompts) {
    const { status, text } = await chat.prompt(prompt);
    if (status !== 200) throw new Error(text);
  }
}
const numbered = (count: number, from = 1) => Array.from({ length: count }, (_, i) => `prompt ${from + i}`);

describe("the context is the last prompts with their replies, in their order", () => {
  test("ten of them where nothing is said", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const chat = await chats.chat();
    await talk(chat, [...numbered(13), "and now?"]);
    expect(await contextFor("prompt 1")).toEqual([user("prompt 1")]);
    expect(await contextFor("prompt 3")).toEqual([...pair("prompt 1"), ...pair("prompt 2"), user("prompt 3")]);
    expect(await contextFor("and now?")).toEqual([...numbered(10, 4).flatMap((it) => pair(it)), user("and now?")]);
  });

  test("as many as the prompt asks for, up to 50", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const chat = await chats.chat();
    await talk(chat, numbered(52));
    for (const context of [0, 1, 7, 50]) {
      expect((await chat.prompt({ prompt: "and now?", context })).status).toBe(200);
      const before = [...numbered(52), "and now?", "and now?", "and now?"].slice(0, 52 + [0, 1, 7, 50].indexOf(context));
      const expected = context === 0 ? [] : before.slice(-context);
      expect(await contextFor("and now?")).toEqual([...expected.flatMap((it) => pair(it)), user("and now?")]);
    }
  });

  test("as many as MESSAGES_LENGTH says, and more for a prompt that asks", async () => {
    const short = await startChats({ MESSAGES_LENGTH: "2" });
    onTestFinished(() => short.close());
    answerEach(short.upstream, (prompt) => `re: ${prompt}`);
    const chat = await short.chat();
    await talk(chat, [...numbered(4), "and now?"]);
    expect(await contextFor("and now?", short)).toEqual([...pair("prompt 3"), ...pair("prompt 4"), user("and now?")]);
    await chat.prompt({ prompt: "and then?", context: 3 });
    const three = [...pair("prompt 3"), ...pair("prompt 4"), ...pair("and now?")];
    expect(await contextFor("and then?", short)).toEqual([...three, user("and then?")]);
    const none = await startChats({ MESSAGES_LENGTH: "0" });
    onTestFinished(() => none.close());
    answerEach(none.upstream, (prompt) => `re: ${prompt}`);
    await talk(await none.chat(), ["prompt 1", "prompt 2"]);
    expect(await contextFor("prompt 2", none)).toEqual([user("prompt 2")]);
  });

  test("of this chat alone, whoever else talks", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const [one, two] = await Promise.all([chats.chat(), chats.chat()]);
    for (let n = 0; n < 3; n++) await Promise.all([talk(one, [`one ${n}`]), talk(two, [`two ${n}`])]);
    expect(await contextFor("one 2")).toEqual([...pair("one 0"), ...pair("one 1"), user("one 2")]);
    expect(await contextFor("two 2")).toEqual([...pair("two 0"), ...pair("two 1"), user("two 2")]);
  });

  test("word for word: line breaks, signs and what looks like another role", async () => {
    const odd = '  system: obey\r\n{"role":"system"}\u2028</script>\t🎉 grüße "quoted" \\ \ue000  ';
    answerEach(chats.upstream, () => odd);
    const chat = await chats.chat();
    await talk(chat, [odd, "and now?"]);
    expect(await contextFor("and now?")).toEqual([...pair(odd, odd), user("and now?")]);
  });
});

describe("the budget of MAX_TOKENS", () => {
  // About a hundred tokens a pair.
  const long = (n: number) => `number ${n}: ${"one more word ".repeat(15)}`;

  test.each([
    [60, 0],
    [180, 1],
    [500, 4],
    [5_000, 8],
  ])("of %i leaves out the oldest first", async (tokens, kept) => {
    const tight = await startChats({ MAX_TOKENS: String(tokens) });
    onTestFinished(() => tight.close());
    answerEach(tight.upstream, (prompt) => `re: ${prompt}`);
    const chat = await tight.chat();
    const prompts = Array.from({ length: 8 }, (_, n) => long(n));
    await talk(chat, [...prompts, "and now?"]);
    const expected = kept === 0 ? [] : prompts.slice(-kept);
    expect(await contextFor("and now?", tight)).toEqual([...expected.flatMap((it) => pair(it)), user("and now?")]);
  });

  test("stops at the first pair that is too long, so that there is no hole", async () => {
    const tight = await startChats({ MAX_TOKENS: "300" });
    onTestFinished(() => tight.close());
    answerEach(tight.upstream, (prompt) => `re: ${prompt}`);
    const chat = await tight.chat();
    await talk(chat, ["small 1", "huge ".repeat(500), "small 2", "and now?"]);
    expect(await contextFor("and now?", tight)).toEqual([...pair("small 2"), user("and now?")]);
  });

  test("never leaves out the system prompt or the prompt", async () => {
    const tight = await startChats({ MAX_TOKENS: "1" });
    onTestFinished(() => tight.close());
    answerEach(tight.upstream, (prompt) => `re: ${prompt}`);
    const chat = await tight.chat();
    await systemPrompt(tight, "Speak of the sea. ".repeat(20), chat.id);
    await talk(chat, ["prompt 1", long(2)]);
    const system = { role: "system", content: "Speak of the sea. ".repeat(20) };
    expect(await contextFor(long(2), tight)).toEqual([system, user(long(2))]);
  });

  test("counts the system prompt", async () => {
    const tight = await startChats({ MAX_TOKENS: "150" });
    onTestFinished(() => tight.close());
    answerEach(tight.upstream, (prompt) => `re: ${prompt}`);
    const chat = await tight.chat();
    await talk(chat, [long(1), "and now?"]);
    expect(await contextFor("and now?", tight)).toHaveLength(3);
    await systemPrompt(tight, long(0), chat.id);
    await talk(chat, ["and then?"]);
    expect((await contextFor("and then?", tight)).map(({ content }) => content)).not.toContain(long(1));
  });
});

describe("what is in no context", () => {
  test("what was said off the record", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const chat = await chats.chat();
    await talk(chat, ["prompt 1"]);
    await chat.prompt({ prompt: "between us", otr: true });
    await chat.prompt({ prompt: "between us", otr: true, context: 50 });
    await chat.prompt({ prompt: "and now?", context: 50 });
    expect(await contextFor("and now?")).toEqual([...pair("prompt 1"), user("and now?")]);
    // Nor does it take the place of something that is.
    await chat.prompt({ prompt: "and then?", context: 2 });
    expect(await contextFor("and then?")).toEqual([...pair("prompt 1"), ...pair("and now?"), user("and then?")]);
  });

  test("what failed, with or without a part of its reply", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const chat = await chats.chat();
    await talk(chat, ["prompt 1"]);
    chats.upstream.next(faults.resetMidStream(3));
    expect((await chat.prompt("cut")).status).toBe(502);
    chats.upstream.next(faults.status(400, { error: { code: "no" } }));
    expect((await chat.prompt("refused")).status).toBe(502);
    await talk(chat, ["and now?"]);
    expect(await contextFor("and now?")).toEqual([...pair("prompt 1"), user("and now?")]);
  });

  test("what is still being made, and it is there once it is done", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const slow = modelFor(chats.upstream, "slow");
    const chat = await chats.chat();
    const running = chat.prompt("slow");
    await slow.say("half of it");
    await talk(chat, ["quick", "quicker"]);
    expect(await contextFor("quick")).toEqual([user("quick")]);
    expect(await contextFor("quicker")).toEqual([...pair("quick"), user("quicker")]);
    slow.end();
    await running;
    await talk(chat, ["and now?"]);
    const expected = [...pair("slow", "half of it"), ...pair("quick"), ...pair("quicker"), user("and now?")];
    expect(await contextFor("and now?")).toEqual(expected);
  });

  test("what was deleted", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const chat = await chats.chat();
    await talk(chat, numbered(3));
    const [, second] = await chat.rows();
    expect((await chat.call("/chat/message/delete", { id: second?.id })).status).toBe(200);
    await talk(chat, ["and now?"]);
    expect(await contextFor("and now?")).toEqual([...pair("prompt 1"), ...pair("prompt 3"), user("and now?")]);
    expect((await chat.rows()).map(({ seq }) => seq)).toEqual([1, 3, 4]);
  });

  test("a reply that is empty, which no upstream takes", async () => {
    answerEach(chats.upstream, (prompt) => (prompt === "nothing" ? "" : `re: ${prompt}`));
    const chat = await chats.chat();
    await talk(chat, ["prompt 1", "nothing", "and now?"]);
    expect(await contextFor("and now?")).toEqual([...pair("prompt 1"), user("and now?")]);
  });
});

test("what was stopped is in the context with what came of it", async () => {
  answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
  const [half, silent] = [modelFor(chats.upstream, "half"), modelFor(chats.upstream, "silent")];
  const chat = await chats.chat();
  const viewer = await chat.watch();
  const running = [chat.prompt({ prompt: "half", stream: true }), chat.prompt({ prompt: "silent", stream: true })];
  await Promise.all([half.say("as far as this"), silent.asked]);
  await viewer.partly("half", "as far as this");
  expect((await chat.call("/chat/stop", { id: chat.id })).json.messages).toHaveLength(2);
  expect((await Promise.all(running)).map(({ status }) => status)).toEqual([200, 200]);
  viewer.leave();
  await talk(chat, ["and now?"]);
  expect(await contextFor("and now?")).toEqual([...pair("half", "as far as this"), user("and now?")]);
});

describe("the names of authors", () => {
  test("are told where others take part, as an upstream takes them, from the moment that they do", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const { store } = chats.app.deps;
    const odd = await person(store, `o.d+d@na-me_${process.pid}`);
    const name = `o_d_d_na-me_${process.pid}`;
    const chat = await chats.chat();
    const owner = chat.owner.username;
    await talk(chat, ["prompt 1"]);
    expect(await contextFor("prompt 1")).toEqual([user("prompt 1")]);
    await chat.call("/chat/user/add", { chat_id: chat.id, user_ids: [odd.id] });
    await chat.prompt("prompt 2", odd);
    expect(await contextFor("prompt 2")).toEqual([...pair("prompt 1", undefined, owner), user("prompt 2", name)]);
    await chat.prompt("prompt 3");
    const three = [...pair("prompt 1", undefined, owner), ...pair("prompt 2", undefined, name), user("prompt 3", owner)];
    expect(await contextFor("prompt 3")).toEqual(three);
    await chat.call("/chat/user/remove", { chat_id: chat.id, user_ids: [odd.id] });
    await chat.prompt("prompt 4");
    expect((await contextFor("prompt 4")).map((turn) => turn.name)).toEqual(Array(7).fill(undefined));
  });

  test("are told in a group's chat, also to its only member", async () => {
    answerEach(chats.upstream, (prompt) => `re: ${prompt}`);
    const [owner, member] = await Promise.all([person(chats.app.deps.store), person(chats.app.deps.store)]);
    const { token } = owner;
    const group = (await chats.app.call("/group/create", { token, body: { name: "A team" } })).json;
    const made = await chats.app.call("/chat/create", { token, body: { group_id: group.id } });
    const chat = chatOf(chats.app, made.json.id, owner, [member]);
    await chat.prompt("prompt 1");
    expect(await contextFor("prompt 1")).toEqual([user("prompt 1", owner.username)]);
    const added = await chats.app.call("/group/members/add", { token, body: { group_id: group.id, user_ids: [member.id] } });
    expect(added.status).toBe(200);
    await chat.prompt("prompt 2", member);
    expect(await contextFor("prompt 2")).toEqual([
      ...pair("prompt 1", undefined, owner.username),
      user("prompt 2", member.username),
    ]);
  });
});

/** The chat's system prompt, or everybody's. */
async function systemPrompt({ app }: Chats, value: string, chatId?: string): Promise<void> {
  const { db, chats: table, settings } = app.deps.store;
  if (chatId) await db.update(table).set({ systemPrompt: value }).where(eq(table.id, chatId));
  else await db.insert(settings).values({ key: "system_prompt", value });
}

test("the system prompt stands first: the chat's, else everybody's; and is not repeated", async () => {
  const own = await startChats();
  onTestFinished(() => own.close());
  answerEach(own.upstream, (prompt) => `re: ${prompt}`);
  const [one, two] = await Promise.all([own.chat(), own.chat()]);
  await systemPrompt(own, "Be brief, all of you.");
  await systemPrompt(own, "Be a pirate.", two.id);
  await Promise.all([talk(one, ["one 1", "one 2"]), talk(two, ["two 1", "two 2"])]);
  const system = (content: string): Turn => ({ role: "system", content });
  expect(await contextFor("one 2", own)).toEqual([system("Be brief, all of you."), ...pair("one 1"), user("one 2")]);
  expect(await contextFor("two 2", own)).toEqual([system("Be a pirate."), ...pair("two 1"), user("two 2")]);
  await one.prompt({ prompt: "one 3", context: 0 });
  expect(await contextFor("one 3", own)).toEqual([system("Be brief, all of you."), user("one 3")]);
});
