import { randomUUID } from "node:crypto";
import { setImmediate as turn } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { expectRefusal } from "../support/answers.ts";
import { until } from "../support/relay.ts";
import { random, seed, trials } from "../support/seed.ts";
import { faults } from "../support/upstream.ts";
import { type Chat, type Chats, modelFor, person, promptStream, startChats, type Viewer } from "./support.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

/** A reply of which somebody has heard this much, and who they are. */
async function halfway(chat: Chat, prompt: string, text: string, fields: Record<string, unknown> = {}) {
  const viewer = await chat.watch();
  const it = modelFor(chats.upstream, prompt);
  const answer = chat.prompt({ prompt, stream: true, ...fields });
  if (text === "") await viewer.until("a begin", (all) => all.find(prompt)?.begun === 1);
  else {
    await it.say(text);
    await viewer.partly(prompt, text);
  }
  const recorded = await it.asked;
  return { viewer, it, answer, recorded, id: viewer.find(prompt)?.id ?? "" };
}

/** The last frames are who stopped it, and what came of it. */
function expectStopped({ heard, find }: Viewer, id: string, by: string, reply: string): void {
  const last = heard.slice(-2);
  expect(last[0]).toMatchObject({ event: "stopped", data: { message: { id }, user_id: by } });
  expect(last[1]).toMatchObject({ event: null, data: { message: { id, reply }, partial: false } });
  expect(find(id)).toMatchObject({ ends: 1, whole: reply });
}

describe("a reply that is stopped", () => {
  test.each<[what: string, text: string, name: (chatId: string, id: string) => Record<string, unknown>]>([
    ["before its first word, by its chat", "", (chatId) => ({ id: chatId })],
    ["before its first word, by its own id", "", (_, id) => ({ id })],
    ["in the middle, by its chat", "Spain is", (chatId) => ({ id: chatId })],
    ["in the middle, by its own id", "Spain is", (_, id) => ({ id })],
    ["in the middle, by both", "Spain is", (chatId, id) => ({ id: chatId, message_id: id })],
  ])("%s, by another member: the upstream is aborted, what came of it is kept, and everyone told", async (_what, text, name) => {
    const chat = await chats.chat(2);
    const [by, third] = chat.others;
    const other = await chat.watch(third);
    const { viewer, it, answer, recorded, id } = await halfway(chat, "tell me", text);
    const stopped = await chat.call("/chat/stop", name(chat.id, id), by);
    expect((await recorded.closed).aborted).toBe(true);
    const { status, json } = await answer;
    expect(status).toBe(200);
    const message = { id, prompt: "tell me", reply: text, state: "stopped", stopped_by: by?.id, error_code: null };
    expect(json).toMatchObject({ reply: text, message });
    expect(stopped).toMatchObject({ status: 200, json: { messages: [json.message] } });
    expect(await chat.read()).toEqual([json.message]);
    for (const each of [viewer, other]) {
      await each.ended(id);
      expectStopped(each, id, by?.id ?? "", text);
      each.leave();
    }
    await it.say(" what nobody hears").catch(() => {});
    expect(await chat.read()).toEqual([json.message]);
  });

  test("is what its prompter hears by events as well", async () => {
    const chat = await chats.chat(1);
    const it = modelFor(chats.upstream, "tell me");
    const own = await promptStream(chats.app.url, chat.owner.token, { id: chat.id, prompt: "tell me" });
    await it.say("Spain is");
    const { id } = await own.partly("tell me", "Spain is");
    await chat.call("/chat/stop", { id }, chat.others[0]);
    expect(await own.over).toBe("ended");
    expectStopped(own, id, chat.others[0]?.id ?? "", "Spain is");
    expect(await chats.eventOf(own)).toMatchObject({ status: 200, errorCode: null });
  });

  test("was paid for: its tokens are estimated, in the message, the event and the usage", async () => {
    const chat = await chats.chat();
    const { viewer, answer, id } = await halfway(chat, "tell me", "Spain is a country in the south of Europe, and");
    await chat.call("/chat/stop", { id });
    viewer.leave();
    const told = await answer;
    const { prompt_tokens: promptTokens, completion_tokens: completionTokens } = told.json.message;
    expect(promptTokens).toBeGreaterThan(0);
    expect(completionTokens).toBeGreaterThan(5);
    expect(await chats.eventOf(told)).toMatchObject({ promptTokens, completionTokens, tokensEstimated: true });
    const { db, usage } = chats.app.deps.store;
    const [used] = (await db.select().from(usage)).filter(({ userId }) => userId === chat.owner.id);
    expect(used).toMatchObject({ promptTokens, completionTokens });
  });

  test("is stopped also where nobody watches and nothing streams, and while the upstream is waited for", async () => {
    const chat = await chats.chat();
    const it = modelFor(chats.upstream, "quiet");
    const answer = chat.prompt("quiet");
    await it.say("Spain");
    // The next one is between two tries, which are five seconds apart.
    chats.upstream.next(faults.status(503, "", { "retry-after": "5" }));
    const busy = chat.prompt("busy");
    await chats.upstream.waitFor(2);
    await until(async () => (await chat.rows()).length === 2);
    const stopped = await chat.call("/chat/stop", { id: chat.id });
    expect(stopped.json.messages.map(({ state }: { state: string }) => state)).toEqual(["stopped", "stopped"]);
    expect((await answer).json.message.state).toBe("stopped");
    expect((await busy).json).toMatchObject({ reply: "", message: { state: "stopped", completion_tokens: null } });
    expect(chats.upstream.requests).toHaveLength(2);
  });

  test("is the one that was meant, and the others go on", async () => {
    const chat = await chats.chat();
    const one = await halfway(chat, "one", "first");
    const two = await halfway(chat, "two", "second");
    expect((await chat.call("/chat/stop", { id: chat.id, message_id: one.id })).json.messages).toMatchObject([{ id: one.id }]);
    expect((await one.answer).json.message.state).toBe("stopped");
    await two.it.say(" half");
    two.it.end();
    expect((await two.answer).json.message).toMatchObject({ state: "done", reply: "second half" });
    for (const { viewer } of [one, two]) viewer.leave();
  });

  test("all of them, by the chat, and none of another's", async () => {
    const [chat, other] = await Promise.all([chats.chat(), chats.chat()]);
    const running = await Promise.all([halfway(chat, "one", "1"), halfway(chat, "two", "2"), halfway(chat, "three", "")]);
    const elsewhere = await halfway(other, "elsewhere", "4");
    const stopped = await chat.call("/chat/stop", { id: chat.id });
    const ids = (list: { id: string }[]) => list.map(({ id }) => id).sort();
    expect(ids(stopped.json.messages)).toEqual(ids(running));
    for (const { answer, viewer } of running) {
      expect((await answer).json.message.state).toBe("stopped");
      viewer.leave();
    }
    elsewhere.it.end();
    expect((await elsewhere.answer).json.message.state).toBe("done");
    elsewhere.viewer.leave();
  });
});

describe("a stop", () => {
  test("with nothing running says so", async () => {
    const chat = await chats.chat();
    expect(await chat.call("/chat/stop", { id: chat.id })).toMatchObject({ status: 200, json: { messages: [] } });
    const { json } = await chat.prompt("hi");
    for (const body of [{ id: chat.id }, { id: json.message.id }, { id: chat.id, message_id: json.message.id }])
      expect(await chat.call("/chat/stop", body)).toMatchObject({ status: 200, json: { messages: [] } });
    const otr = await chat.prompt({ prompt: "between us", otr: true });
    expect(await chat.call("/chat/stop", { id: otr.json.message.id })).toMatchObject({ status: 200, json: { messages: [] } });
    expect(await chat.read()).toEqual([json.message, otr.json.message]);
  });

  test("twice, at once and later, is one stop, by one of the two", async () => {
    const chat = await chats.chat(2);
    const { viewer, answer, id } = await halfway(chat, "tell me", "Spain is");
    const stops = await Promise.all(chat.others.map((by) => chat.call("/chat/stop", { id: chat.id }, by)));
    expect(stops.map(({ status }) => status)).toEqual([200, 200]);
    const { message } = (await answer).json;
    expect(chat.others.map((by) => by.id)).toContain(message.stopped_by);
    for (const { json } of stops) for (const told of json.messages) expect(told).toEqual(message);
    expect(stops.flatMap(({ json }) => json.messages).length).toBeGreaterThan(0);
    await viewer.ended(id);
    expect(await chat.call("/chat/stop", { id })).toMatchObject({ status: 200, json: { messages: [] } });
    expect(await chat.read()).toEqual([message]);
    expect(viewer.named("stopped")).toHaveLength(1);
    viewer.leave();
  });

  test("of a stranger, a removed member, nobody, or by an id of another chat, stops nothing", async () => {
    const [chat, other] = await Promise.all([chats.chat(1), chats.chat()]);
    const [removed] = chat.others;
    const stranger = await person(chats.app.deps.store);
    const { viewer, it, answer, id } = await halfway(chat, "tell me", "Spain is");
    await chat.call("/chat/user/remove", { chat_id: chat.id, user_ids: [removed?.id] });
    for (const by of [stranger, removed])
      for (const body of [{ id: chat.id }, { id }, { id: chat.id, message_id: id }])
        expectRefusal(await chat.call("/chat/stop", body, by), 404, "not_found");
    expectRefusal(await chats.app.call("/chat/stop", { body: { id: chat.id } }), 401, "unauthenticated");
    expectRefusal(await chat.call("/chat/stop", { id: randomUUID() }), 404, "not_found");
    const elsewhere = { id: other.id, message_id: id };
    expect((await chats.app.call("/chat/stop", { token: other.owner.token, body: elsewhere })).json).toEqual({ messages: [] });
    expect((await chat.call("/chat/stop", { id: chat.id, message_id: randomUUID() })).json).toEqual({ messages: [] });
    await it.say(" a country.");
    it.end();
    expect((await answer).json.message).toMatchObject({ state: "done", reply: "Spain is a country.", stopped_by: null });
    viewer.leave();
  });

  test(`at any moment of a reply leaves one truth (seed ${seed})`, async () => {
    const chat = await chats.chat(1);
    const viewer = await chat.watch();
    chats.upstream.when(() => true, faults.stream({ chunks: 12, gapMs: 1, usage: true }));
    const chance = random(seed);
    const states = new Set<string>();
    for (let round = 0; round < trials(15); round++) {
      const id = randomUUID();
      const answer = chat.prompt({ prompt: `round ${round}`, message_id: id, stream: round % 2 === 0 });
      const turns = Math.floor(chance() ** 2 * 400);
      for (let n = 0; n < turns; n++) await turn();
      const stop = await chat.call("/chat/stop", round % 3 === 0 ? { id } : { id: chat.id }, chat.others[0]);
      const { status, json } = await answer;
      expect(status).toBe(200);
      const { message } = json;
      states.add(message.state);
      expect(message.stopped_by).toBe(message.state === "stopped" ? chat.others[0]?.id : null);
      expect([200, 404]).toContain(stop.status);
      if (stop.status === 200) for (const told of stop.json.messages) expect(told).toEqual(message);
      expect((await chat.read()).at(-1)).toEqual(message);
      const heard = await viewer.ended(id);
      expect(heard).toMatchObject({ begun: 1, ends: 1, whole: message.reply });
      if (heard.deltas > 0) expect(heard.streamed).toBe(message.reply);
      const words = Array.from({ length: 12 }, (_, i) => `word-${i} `).join("");
      expect(words.startsWith(message.reply)).toBe(true);
      if (message.state === "done") expect(message.reply).toBe(words);
      const events = viewer.named("stopped").filter(({ message: of }) => (of as { id: string }).id === id);
      expect(events).toHaveLength(message.state === "stopped" ? 1 : 0);
    }
    viewer.leave();
    expect(states.has("stopped")).toBe(true);
  });
});

describe("deleting, while a reply is made", () => {
  test("the chat: the upstream is aborted, its prompter told, those who watch sent away, and nothing left", async () => {
    const chat = await chats.chat(1);
    const other = await chat.watch(chat.others[0]);
    const { viewer, answer, recorded } = await halfway(chat, "tell me", "Spain is");
    expect((await chat.call("/chat/delete", { id: chat.id })).status).toBe(200);
    expect((await recorded.closed).aborted).toBe(true);
    const told = await answer;
    expectRefusal(told, 404, "not_found");
    expect(await Promise.all([viewer.over, other.over])).toEqual(["ended", "ended"]);
    expect(await chat.rows()).toEqual([]);
    expect(await chats.eventOf(told)).toMatchObject({ status: 404, errorCode: "not_found", chatId: chat.id });
    expectRefusal(await chat.prompt("hi"), 404, "not_found");
  });

  test("the message: the same, those who watch hear of it once, and who comes later hears nothing of it", async () => {
    const chat = await chats.chat(1);
    const { viewer, answer, recorded, id } = await halfway(chat, "tell me", "Spain is");
    expect((await chat.call("/chat/message/delete", { id })).status).toBe(200);
    expect((await recorded.closed).aborted).toBe(true);
    const told = await answer;
    expectRefusal(told, 404, "not_found");
    await viewer.until("the deletion", ({ named }) => named("deleted").length > 0);
    const late = await chat.watch(chat.others[0]);
    await chat.prompt("next");
    await Promise.all([viewer.ended("next"), late.ended("next")]);
    expect(viewer.named("deleted")).toEqual([{ message: { id } }]);
    expect([late.find(id), late.named("deleted")]).toEqual([undefined, []]);
    expect(viewer.find(id)).toMatchObject({ ends: 0 });
    for (const each of [viewer, late]) each.leave();
    expect((await chat.rows()).map(({ seq, prompt }) => [seq, prompt])).toEqual([[2, "next"]]);
  });

  test("the tokens that were used are counted all the same", async () => {
    const chat = await chats.chat();
    const { viewer, answer, id } = await halfway(chat, "tell me", "Spain is a country in the south of Europe, and");
    await chat.call("/chat/message/delete", { id });
    viewer.leave();
    const event = await chats.eventOf(await answer);
    expect(event).toMatchObject({ status: 404, model: "gpt-4o-mini", tokensEstimated: true });
    expect(event.completionTokens).toBeGreaterThan(5);
  });

  test("a member who did not write it, and does not own the chat, may not", async () => {
    const chat = await chats.chat(1);
    const { viewer, it, answer, id } = await halfway(chat, "tell me", "Spain is");
    expectRefusal(await chat.call("/chat/message/delete", { id }, chat.others[0]), 403, "forbidden");
    expectRefusal(await chat.call("/chat/delete", { id: chat.id }, chat.others[0]), 403, "forbidden");
    it.end();
    expect((await answer).json.message.state).toBe("done");
    viewer.leave();
  });
});
