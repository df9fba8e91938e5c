import { randomUUID } from "node:crypto";
import { setImmediate as turn } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import {
  answerEach,
  type Chat,
  type Chats,
  modelFor,
  person,
  promptStream,
  sent,
  startChats,
  type Viewer,
  watchStream,
} from "../chat/support.ts";
import { type Client, fetchStreaming, type Place, type Watching, wsThatResumes, wsWith } from "../chat-clients/clients.ts";
import { expectRefusal } from "../support/answers.ts";
import { random, seed, trials } from "../support/seed.ts";
import { ownChat, tablesWith } from "./own.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

/** A one-pixel image, given inline. */
const IMAGE =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

const echo = () => answerEach(chats.upstream, (prompt) => `reply to ${prompt}`);
const clear = (chat: Chat, by = chat.owner) => chat.call(`/${chat.id}/clear`, {}, by);
async function cleared(chat: Chat): Promise<void> {
  expect(await clear(chat)).toMatchObject({ status: 200, json: {} });
}
const placeOf = (chat: Chat, by = chat.owner): Place => ({ url: chats.app.url, chatId: chat.id, person: by });
/** Everything that was heard behind the last `reset`, in one text. */
const sinceReset = (frames: readonly { event: string | null }[]) =>
  JSON.stringify(frames.slice(frames.findLastIndex(({ event }) => event === "reset") + 1));
const reset = (viewer: Viewer, times = 1) => viewer.until("a reset", () => viewer.named("reset").length >= times);

describe("after a clear", () => {
  test("nothing that was said is in the conversation, its messages, the list of chats, the context or the store", async () => {
    echo();
    const chat = await ownChat(chats.app, "demo");
    const id = randomUUID();
    await chat.call("/demo/chat", { content: "secret one", message_id: id });
    await chat.call("/demo/img", { content: "secret two", url: IMAGE });
    await chat.prompt({ prompt: "secret three", otr: true });
    const said = ["secret one", "reply to secret one", "secret two", "secret three", IMAGE];
    const { store } = chats.app.deps;
    const listed = async () =>
      (await chat.call("/chat/index")).json.chats.find((it: { id: string }) => it.id === chat.id)?.last_message;
    expect((await chat.call("/demo/chat")).json).toHaveLength(5);
    expect(await listed()).toMatchObject({ prompt: "secret three" });
    for (const text of said) expect(await tablesWith(store, text)).toContain(text === IMAGE ? "images" : "messages");

    expect(await chat.call("/demo/clear", {})).toMatchObject({ status: 200, json: {} });
    expectRefusal(await chat.call("/demo/chat"), 404, "not_found");
    expect((await chat.call("/chat/read", { id: "demo" })).json).toMatchObject({
      chat: { id: chat.id, key: "demo" },
      messages: [],
    });
    expect(await listed()).toBeNull();
    // What stays is the audit log.
    for (const text of said) {
      const left = (await tablesWith(store, text)).filter((name) => !/^(events|outcomes)/.test(name));
      expect([text, left]).toEqual([text, []]);
    }
    expect(JSON.stringify(await chats.app.deps.bus.since(chat.id, null))).not.toMatch(/secret/);

    await chat.call("/demo/chat", { content: "what did I say?" });
    const asked = chats.upstream.requests.at(-1);
    expect(asked && (await sent(asked)).messages).toEqual([{ role: "user", content: "what did I say?" }]);
    expect((await chat.call("/demo/chat")).json).toEqual([
      { role: "user", content: "what did I say?" },
      { role: "assistant", content: "reply to what did I say?" },
    ]);
  });

  test("what is said is context again, and its numbers go on", async () => {
    echo();
    const chat = await chats.chat();
    const say = async (prompt: string) => (await chat.prompt(prompt)).json.message.seq;
    expect([await say("one"), await say("two")]).toEqual([1, 2]);
    await cleared(chat);
    expect([await say("three"), await say("four")]).toEqual([3, 4]);
    const asked = chats.upstream.requests.at(-1);
    expect(asked && (await sent(asked)).messages.map(({ content }) => content)).toEqual(["three", "reply to three", "four"]);
    await cleared(chat);
    await cleared(chat);
    expect(await say("five")).toBe(5);
    expect((await chat.read()).map(({ seq }) => seq)).toEqual([5]);
  });

  test("no function knows a message any more that was cleared", async () => {
    const chat = await chats.chat(1);
    const image = await chat.call(`/${chat.id}/img`, { content: "what is it?", url: IMAGE });
    expect(image.status).toBe(200);
    await chat.prompt("hi", chat.others[0]);
    const ids = (await chat.read()).map(({ id }) => id as string);
    expect(ids).toHaveLength(2);
    expect(await chat.call("/chat/message/image", { id: ids[0] })).toMatchObject({ status: 200, json: { url: IMAGE } });
    await cleared(chat);
    for (const by of [chat.owner, ...chat.others])
      for (const id of ids)
        for (const path of ["/chat/message/delete", "/chat/message/image", "/chat/stop"])
          expectRefusal(await chat.call(path, { id }, by), 404, "not_found");
    expect(await chat.call("/chat/stop", { id: chat.id, message_id: ids[0] })).toMatchObject({
      status: 200,
      json: { messages: [] },
    });
  });

  test("an administrator still finds the prompts and what they were answered in the audit log", async () => {
    echo();
    const admin = await person(chats.app.deps.store);
    const { db, users } = chats.app.deps.store;
    await db.update(users).set({ admin: true });
    const chat = await chats.chat(1);
    const answers = [await chat.prompt("kept for the log"), await chat.prompt("and this", chat.others[0])];
    await cleared(chat);
    for (const answer of answers) await chats.eventOf(answer);
    const { status, json } = await chat.call("/system/events", { chat: chat.id, endpoint: "chat.prompt" }, admin);
    expect(status).toBe(200);
    const told = json.events.map((event: Record<string, unknown>) => JSON.stringify(event));
    expect(told).toHaveLength(2);
    expect(told[1]).toContain("kept for the log");
    expect(told[1]).toContain("reply to kept for the log");
    expect(told[0]).toContain("reply to and this");
    const [clearing] = (await chat.call("/system/events", { chat: chat.id, endpoint: "chat.clear" }, admin)).json.events;
    expect(clearing).toMatchObject({ status: 200, user_id: chat.owner.id });
  });
});

describe("a message_id that was used before a clear", () => {
  test("of a reply that was complete, may be used again: asked, stored, and heard as it is made", async () => {
    echo();
    const chat = await chats.chat();
    const viewer = await chat.watch();
    const id = randomUUID();
    await chat.prompt({ prompt: "first", message_id: id });
    await viewer.ended("first");
    await cleared(chat);
    await reset(viewer);
    const it = modelFor(chats.upstream, "second");
    const answer = chat.prompt({ prompt: "second", message_id: id, stream: true });
    await it.say("half");
    it.end();
    expect(await answer).toMatchObject({ status: 200, json: { message: { id, seq: 2, prompt: "second", reply: "half" } } });
    expect(await chat.read()).toMatchObject([{ id, state: "done", reply: "half" }]);
    const fresh = viewer.heard.findLastIndex(({ event }) => event === "reset") + 1;
    await viewer.until("the end of the second", ({ heard }) => heard.slice(fresh).some(({ data }) => data.partial === false));
    expect(viewer.heard.slice(fresh).map(({ data }) => data.message)).toContainEqual(
      expect.objectContaining({ id, prompt: "second", reply: "half" }),
    );
    viewer.leave();
  });

  test("of a reply that the clear stopped, may be used again, and is not stopped once more", async () => {
    const chat = await chats.chat();
    const viewer = await chat.watch();
    const id = randomUUID();
    const first = modelFor(chats.upstream, "first");
    const lost = chat.prompt({ prompt: "first", message_id: id, stream: true });
    await first.say("secret");
    await viewer.partly("first", "secret");
    await cleared(chat);
    expectRefusal(await lost, 404, "not_found");
    const again = modelFor(chats.upstream, "again");
    const answer = chat.prompt({ prompt: "again", message_id: id, stream: true });
    await Promise.race([answer, again.say("all of it")]);
    // Whatever would stop it has the time to.
    for (let n = 0; n < 50; n++) await turn();
    again.end();
    expect(await answer).toMatchObject({ status: 200, json: { reply: "all of it", message: { id, state: "done", seq: 2 } } });
    viewer.leave();
  });
});

describe("those who watch", () => {
  const clients: [how: string, client: Client][] = [
    ["server-sent events", fetchStreaming],
    ["WebSocket", wsWith("bearer")],
  ];
  test.each(clients)("by %s get a reset, and then only what comes later", async (_how, client) => {
    echo();
    const chat = await chats.chat(1);
    const viewers = [await client(placeOf(chat)), await client(placeOf(chat, chat.others[0]))];
    await chat.prompt({ prompt: "secret", stream: true });
    for (const { heard } of viewers) await heard.ended("secret");
    await cleared(chat);
    for (const { heard } of viewers) await heard.until("a reset", ({ events }) => events.includes("reset"));
    const late = await client(placeOf(chat));
    await chat.prompt({ prompt: "later", stream: true });
    for (const { heard, leave } of [...viewers, late]) {
      const told = await heard.ended("later");
      expect(told).toMatchObject({ begun: 1, streamed: "reply to later", whole: "reply to later", ends: 1 });
      expect(sinceReset(heard.frames)).not.toContain("secret");
      leave();
    }
    for (const { heard } of viewers) expect(heard.events).toEqual(["reset"]);
    expect(late.heard.events).toEqual([]);
    expect([...late.heard.messages.values()].map(({ prompt }) => prompt)).toEqual(["later"]);
  });

  const ways: [how: string, come: (place: Place, after: string) => Promise<Watching>][] = [
    ["after=", (place, after) => fetchStreaming({ ...place, after })],
    ["after= on a WebSocket", (place, after) => wsWith("bearer")({ ...place, after })],
    ["resume on a WebSocket", (place, after) => wsThatResumes({ ...place, after })],
  ];
  test.each(ways)("who resume with an id of before, by %s, get a reset, and then only what came later", async (_how, come) => {
    echo();
    const chat = await chats.chat();
    const before = await fetchStreaming(placeOf(chat));
    await chat.prompt({ prompt: "secret one", stream: true });
    await chat.prompt({ prompt: "secret two", stream: true });
    await before.heard.ended("secret two");
    const ids = before.heard.frames.flatMap(({ id }) => id ?? []);
    expect(ids.length).toBeGreaterThan(4);
    await cleared(chat);
    await before.heard.until("a reset", ({ events }) => events.includes("reset"));
    const resumed: Watching[] = [];
    const resume = async () => {
      for (const id of [ids[0], ids[2], ids.at(-1)]) {
        const viewer = await come(placeOf(chat), String(id));
        await viewer.heard.until("a reset", ({ events }) => events.includes("reset"));
        resumed.push(viewer);
      }
    };
    await resume();
    await chat.prompt({ prompt: "later", stream: true });
    await before.heard.ended("later");
    await resume();
    for (const { heard, leave } of [before, ...resumed]) {
      expect(await heard.ended("later")).toMatchObject({ whole: "reply to later", ends: 1 });
      expect(sinceReset(heard.frames)).not.toContain("secret");
      expect(heard.events).toEqual(["reset"]);
      leave();
    }
    for (const { heard } of resumed) expect(heard.messages.size).toBe(1);
  });

  test("who resume with the header Last-Event-ID, or the id of the reset itself, get the same", async () => {
    echo();
    const chat = await chats.chat();
    const before = await chat.watch();
    await chat.prompt("secret");
    await before.ended("secret");
    const old = String(before.heard.at(-1)?.id);
    await cleared(chat);
    await reset(before);
    const of = String(before.heard.findLast(({ event }) => event === "reset")?.id);
    expect(of).toMatch(/^\d+-\d+$/);
    const from = (id: string) =>
      watchStream(`${chats.app.url}/chat/stream?id=${chat.id}`, chat.owner.token, { "last-event-id": id });
    const [resumed, seen] = [await from(old), await from(of)];
    await reset(resumed);
    await chat.prompt("later");
    for (const viewer of [resumed, seen]) {
      expect(await viewer.ended("later")).toMatchObject({ begun: 1, whole: "reply to later" });
      expect(viewer.messages.size).toBe(1);
      viewer.leave();
    }
    // Who has seen the reset has nothing to begin anew.
    expect([resumed.named("reset").length, seen.named("reset").length]).toEqual([1, 0]);
    before.leave();
  });

  test("who come new hear nothing of what was cleared, whatever is running", async () => {
    const chat = await chats.chat();
    const first = modelFor(chats.upstream, "secret");
    const lost = chat.prompt({ prompt: "secret", stream: true });
    await first.say("secret words");
    await cleared(chat);
    expectRefusal(await lost, 404, "not_found");
    const it = modelFor(chats.upstream, "later");
    const answer = chat.prompt({ prompt: "later", stream: true });
    await it.say("more");
    const viewer = await chat.watch();
    await viewer.partly("later", "more");
    it.end();
    await answer;
    await viewer.ended("later");
    expect(JSON.stringify(viewer.heard)).not.toContain("secret");
    viewer.leave();
  });

  test("and do not read at the time, get nothing of it afterwards but what was under way to them", async () => {
    const roomy = await startChats({}, { limits: { rotateBytes: 1_000_000_000 } });
    onTestFinished(() => roomy.close());
    const chat = await roomy.chat(1);
    const [slow, quick] = [await chat.watch(), await chat.watch(chat.others[0])];
    answerEach(roomy.upstream, (prompt) => `secret ${prompt} ${"日本語".repeat(80_000)}`);
    const prompts = Array.from({ length: 20 }, (_, n) => `long ${n}.`);
    const [first = "", last = ""] = [prompts[0], prompts.at(-1)];
    await chat.prompt(first);
    await slow.ended(first);
    slow.pause();
    for (const prompt of prompts.slice(1)) await chat.prompt({ prompt, context: 0 });
    await quick.ended(last);
    await cleared(chat);
    await reset(quick);
    slow.resume();
    await reset(slow);
    answerEach(roomy.upstream, (prompt) => `reply to ${prompt}`);
    await chat.prompt("later");
    for (const viewer of [slow, quick]) {
      expect(await viewer.ended("later")).toMatchObject({ begun: 1, whole: "reply to later" });
      expect(/secret|long/.test(sinceReset(viewer.heard))).toBe(false);
      viewer.leave();
    }
    // They lagged indeed, or nothing would have been held back.
    expect([slow.find(first)?.ends, slow.find(last)]).toEqual([1, undefined]);
  });
});

describe("a reply that is being made at a clear", () => {
  test("is aborted, its prompters get 404, and nobody hears more of it or finds it anywhere", async () => {
    const chat = await chats.chat(2);
    const [prompter, third] = chat.others;
    const viewers = [await chat.watch(), await chat.watch(third)];
    const [it, other] = [modelFor(chats.upstream, "tell me"), modelFor(chats.upstream, "by events")];
    const id = randomUUID();
    const body = { prompt: "tell me", message_id: id };
    const answers = [chat.prompt({ ...body, stream: true }, prompter)];
    await it.say("secret half");
    for (const viewer of viewers) await viewer.partly("tell me", "secret half");
    // A second one that waits for the same reply, and one who hears their own by events.
    answers.push(chat.prompt({ ...body, stream: true }, prompter));
    const own = await promptStream(chats.app.url, chat.owner.token, { id: chat.id, prompt: "by events" });
    await other.say("secret other half");
    await own.partly("by events", "secret other half");
    expect(await tablesWith(chats.app.deps.store, "tell me")).toContain("messages");

    await cleared(chat);
    for (const model of [it, other]) expect((await (await model.asked).closed).aborted).toBe(true);
    for (const answer of answers) expectRefusal(await answer, 404, "not_found");
    await own.over;
    expect(own.find("by events")).toMatchObject({ ends: 0 });
    await it.say(" and more of the secret").catch(() => {});
    echo();
    await chat.prompt("later");
    for (const viewer of viewers) {
      await viewer.ended("later");
      expect(sinceReset(viewer.heard)).not.toMatch(/secret|tell me|by events/);
      expect(viewer.find("tell me")).toMatchObject({ ends: 0 });
      expect([...viewer.named("stopped"), ...viewer.named("failed")]).toEqual([]);
      viewer.leave();
    }
    for (const text of ["secret half", "secret other half", "tell me"]) {
      const left = (await tablesWith(chats.app.deps.store, text)).filter((name) => !/^(events|outcomes)/.test(name));
      expect([text, left]).toEqual([text, []]);
    }
    expect(JSON.stringify(await chats.app.deps.bus.since(chat.id, null))).not.toMatch(/secret|tell me/);
    expect((await chat.rows()).map(({ prompt }) => prompt)).toEqual(["later"]);
    for (const answer of answers)
      expect(await chats.eventOf(await answer)).toMatchObject({ status: 404, errorCode: "not_found", chatId: chat.id });
  });
});

describe("prompts at the moment of a clear", () => {
  test(`are whole or gone, and none that stays knows of one that went (seed ${seed})`, async () => {
    const chance = random(seed);
    const told = { stayed: 0, went: 0 };
    for (let round = 0; round < trials(6); round++) {
      const chat = await chats.chat(1);
      const viewer = await chat.watch(chat.others[0]);
      echo();
      await chat.prompt(`old of ${round}.`);
      await viewer.ended(`old of ${round}.`);
      const turns = async (most: number) => {
        for (let left = Math.floor(chance() * most); left > 0; left--) await turn();
      };
      const prompts: Record<string, ReturnType<Chat["prompt"]>> = {};
      const prompting = (async () => {
        for (let n = 0; n < 8; n++) {
          const prompt = `prompt ${n} of ${round}.`;
          prompts[prompt] = chat.prompt({ prompt, stream: n % 2 === 0 }, n % 3 === 0 ? chat.others[0] : chat.owner);
          await turns(30);
        }
      })();
      await turns(160);
      await cleared(chat);
      const answeredMs = performance.now();
      await prompting;
      await Promise.all(Object.values(prompts));

      const rows = await chat.rows();
      const stayed = rows.map(({ prompt }) => prompt);
      const went = [`old of ${round}.`, ...Object.keys(prompts).filter((prompt) => !stayed.includes(prompt))];
      told.stayed += stayed.length;
      told.went += went.length - 1;
      for (const { prompt, reply, state } of rows) {
        expect([prompt, state, reply]).toEqual([prompt, "done", `reply to ${prompt}`]);
        expect(await prompts[prompt]).toMatchObject({ status: 200, json: { reply } });
      }
      const [{ clearedSeq = 0 } = {}] = await chats.app.deps.store.db
        .select()
        .from(chats.app.deps.store.chats)
        .then((all) => all.filter(({ id }) => id === chat.id));
      for (const prompt of Object.keys(prompts)) {
        const { status, json } = (await prompts[prompt]) ?? {};
        if (stayed.includes(prompt)) expect(json.message.seq).toBeGreaterThan(Number(clearedSeq));
        // It was answered before it was cleared, or while.
        else if (status === 200) expect(json.message.seq).toBeLessThanOrEqual(Number(clearedSeq));
        else expect(status).toBe(404);
      }
      for (const recorded of chats.upstream.requests) {
        const { messages } = await sent(recorded);
        const asked = messages.at(-1)?.content ?? "";
        // One that went itself may have been asked with what there was before; but not once the clear was answered.
        if (went.includes(asked) && recorded.startedAt <= answeredMs) continue;
        const known = messages.map(({ content }) => content).join("\n");
        expect({ asked, knows: went.filter((prompt) => prompt !== asked && known.includes(prompt)) }).toEqual({
          asked,
          knows: [],
        });
      }
      for (const prompt of stayed) expect(await viewer.ended(prompt)).toMatchObject({ whole: `reply to ${prompt}` });
      await chat.prompt(`last of ${round}.`);
      await viewer.ended(`last of ${round}.`);
      const heard = sinceReset(viewer.heard);
      for (const prompt of went) expect(heard).not.toContain(prompt);
      viewer.leave();
      chats.reset();
    }
    // Else nothing was tried.
    expect(told).toEqual({ stayed: expect.any(Number), went: expect.any(Number) });
    expect(told.stayed * told.went).toBeGreaterThan(0);
  });
});

describe("who may clear", () => {
  test("the owner may; a member is refused, and to a stranger the chat looks as if it were absent", async () => {
    echo();
    const chat = await chats.chat(1);
    await chat.prompt("kept");
    const stranger = await person(chats.app.deps.store);
    expectRefusal(await clear(chat, chat.others[0]), 403, "forbidden");
    const [theirs, absent] = [await clear(chat, stranger), await chat.call(`/${randomUUID()}/clear`, {}, stranger)];
    for (const answer of [theirs, absent]) expectRefusal(answer, 404, "not_found");
    const body = ({ json: { error } }: typeof theirs) => ({ ...error, request_id: null });
    expect(body(theirs)).toEqual(body(absent));
    expectRefusal(await chats.app.call(`/${chat.id}/clear`, { body: {} }), 401, "unauthenticated");
    expect(await chat.read()).toMatchObject([{ prompt: "kept" }]);
    await cleared(chat);
    expect(await chat.read()).toEqual([]);
  });

  test("a key is one's own: another's chat of the same key is not touched", async () => {
    echo();
    const [one, two] = [await ownChat(chats.app, "demo"), await ownChat(chats.app, "demo")];
    expect(one.id).not.toBe(two.id);
    for (const chat of [one, two]) await chat.call("/demo/chat", { content: "hello" });
    expect((await one.call("/demo/clear", {})).status).toBe(200);
    expectRefusal(await one.call("/demo/chat"), 404, "not_found");
    expect((await two.call("/demo/chat")).json).toHaveLength(2);
  });

  test("twice, at once and later, and of a key that names nothing yet, is no error", async () => {
    echo();
    const chat = await ownChat(chats.app, "demo");
    const done = { status: 200, json: {} };
    await chat.call("/demo/chat", { content: "hello" });
    for (const answer of await Promise.all([1, 2, 3].map(() => chat.call("/demo/clear", {})))) expect(answer).toMatchObject(done);
    expect(await chat.call("/demo/clear", {})).toMatchObject(done);
    expect(await chat.call("/never-used/clear", {})).toMatchObject(done);
    const { chats: made } = (await chat.call("/chat/index")).json;
    expect(made.map(({ key }: { key: string }) => key)).toEqual(["demo"]);
    expectRefusal(await chat.call("/never-used/chat"), 404, "not_found");
    expect((await chat.call("/never-used/chat", { content: "hello" })).status).toBe(200);
  });
});

describe("a chat that was deleted, and made again by its key", () => {
  test("is empty, begins with number 1, and is heard whole by who watched the old one and who comes with its ids", async () => {
    echo();
    const chat = await ownChat(chats.app, "demo");
    const [member] = [await person(chats.app.deps.store)];
    await chat.call("/chat/user/add", { chat_id: chat.id, user_ids: [member.id] });
    const [own, theirs] = [await chat.watch(), await chat.watch(member)];
    for (const content of ["secret one", "secret two"]) await chat.call("/demo/chat", { content, stream: true });
    for (const viewer of [own, theirs]) await viewer.ended("secret two");
    const ids = own.heard.flatMap(({ id }) => id ?? []);
    await chat.call("/demo/clear", {});
    await chat.call("/demo/chat", { content: "secret three" });

    expect((await chat.call("/chat/delete", { id: "demo" })).status).toBe(200);
    const again = await ownChat(chats.app, "demo", chat.owner);
    expect(again.id).toBe(chat.id);
    expect(await theirs.over).toBe("ended");
    expectRefusal(await chat.call("/demo/chat"), 404, "not_found");
    const resumed = await Promise.all([ids[0], ids.at(-1)].map((after) => chat.watch(chat.owner, `&after=${after}`)));
    for (const viewer of resumed) await reset(viewer);
    const fresh = await chat.watch();
    const it = modelFor(chats.upstream, "anew");
    const answer = chat.call("/demo/chat", { content: "anew", stream: true });
    for (const word of ["All ", "of ", "it."]) {
      await it.say(word);
      for (const viewer of [...resumed, fresh]) await viewer.partly("anew", word);
    }
    it.end();
    expect(await answer).toMatchObject({ status: 200, json: { content: "All of it." } });
    expect((await sent(await it.asked)).messages).toEqual([{ role: "user", content: "anew" }]);
    for (const viewer of [...resumed, fresh]) {
      expect(await viewer.ended("anew")).toMatchObject({ begun: 1, streamed: "All of it.", whole: "All of it.", ends: 1 });
      expect(viewer.messages.size).toBe(1);
      viewer.leave();
    }
    expect(sinceReset(own.heard)).not.toContain("secret");
    own.leave();
    expect(await chat.read()).toMatchObject([{ seq: 1, prompt: "anew" }]);
    expect(JSON.stringify(await chats.app.deps.bus.since(chat.id, null))).not.toContain("secret");
    expectRefusal(await chat.call("/chat/read", { id: chat.id }, member), 404, "not_found");
  });
});
