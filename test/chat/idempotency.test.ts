import { randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { expectRefusal } from "../support/answers.ts";
import type { Answer, Person } from "../support/app.ts";
import { freshDatabase, skippedWithoutPostgres } from "../support/postgres.ts";
import { until } from "../support/relay.ts";
import { faults } from "../support/upstream.ts";
import { type Chat, type Chats, modelFor, promptStream, replying, sent, startChats, type Viewer } from "./support.ts";

const stores = [
  { store: "SQLite", skip: false, database: async () => ({ url: "", drop: async () => {} }) },
  { store: "Postgres", skip: skippedWithoutPostgres("equal prompts on Postgres"), database: freshDatabase },
];

/** A prompt as a client sends it that is told to come again: all take their numbers one after the other, which a slow disk makes long. */
async function persistently(chat: Chat, fields: Record<string, unknown>, by: Person): Promise<Answer> {
  const said = { ...fields, message_id: randomUUID() };
  for (let tries = 0; ; tries++) {
    const answer = await chat.prompt(said, by);
    if (answer.json.error?.code !== "store_unavailable" || tries === 5) return answer;
  }
}

for (const { store, skip, database } of stores)
  describe.skipIf(skip)(`one message_id on ${store}`, () => {
    let chats: Chats;
    let drop: () => Promise<void>;
    beforeAll(async () => {
      const made = await database();
      drop = made.drop;
      chats = await startChats(made.url === "" ? {} : { DB_ADDRESS: made.url });
    });
    afterEach(() => chats.reset());
    afterAll(async () => {
      await chats.close();
      await drop();
    });

    /** How many prompts have come in, and are not answered yet. */
    const waiting = async (chat: Chat) => {
      const { db, events, outcomes } = chats.app.deps.store;
      const ended = new Set((await db.select({ id: outcomes.eventId }).from(outcomes)).map(({ id }) => id));
      const rows = await db.select().from(events);
      return rows.filter(({ id, endpoint, userId }) => endpoint === "chat.prompt" && userId === chat.owner.id && !ended.has(id))
        .length;
    };

    /** Ten times the same, of which some hear it as events and some want others to. */
    const tenTimes = (chat: Chat, fields: Record<string, unknown>, headers = {}): Promise<(Answer | Viewer)[]> =>
      Promise.all(
        Array.from({ length: 10 }, (_, i) =>
          i % 3 === 2
            ? promptStream(chats.app.url, chat.owner.token, { id: chat.id, ...fields }, headers)
            : chat.prompt({ ...fields, stream: i % 3 === 1 }, chat.owner, headers),
        ),
      );
    /** The reply that each of them was told. */
    const repliesOf = (answers: (Answer | Viewer)[], prompt: string) =>
      Promise.all(answers.map(async (it) => ("json" in it ? it.json.reply : (await it.ended(prompt)).whole)));

    test.each<[how: string, fields: object, headers: object]>([
      ["a message_id", { message_id: randomUUID() }, {}],
      ["an Idempotency-Key", {}, { "idempotency-key": 'one, "two"; {three}' }],
      ["both", { message_id: randomUUID() }, { "idempotency-key": "two" }],
    ])("ten at once by %s are one: one call, one message, equal answers", async (how, fields, headers) => {
      const chat = await chats.chat();
      const model = modelFor(chats.upstream, how);
      const answers = tenTimes(chat, { prompt: how, ...fields }, headers);
      await model.say("One ");
      await until(async () => (await waiting(chat)) === 10);
      await model.say("reply.");
      model.end();
      expect(await repliesOf(await answers, how)).toEqual(Array(10).fill("One reply."));
      const told = (await answers).flatMap((it) => ("json" in it ? [it] : []));
      expect(new Set(told.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
      expect(chats.upstream.requests).toHaveLength(1);
      expect(await chat.read()).toEqual([told[0]?.json.message]);
      const { db, usage } = chats.app.deps.store;
      const used = (await db.select().from(usage)).filter(({ userId }) => userId === chat.owner.id);
      expect(used.map(({ promptTokens, completionTokens }) => [promptTokens, completionTokens])).toEqual([[9, 12]]);
    });

    test("again, when it is done: the same answer, as JSON and as events, and nothing is asked or numbered", async () => {
      const chat = await chats.chat();
      const said = { id: chat.id, prompt: "hi", message_id: randomUUID() };
      const first = await chat.prompt(said);
      for (let n = 0; n < 3; n++) {
        const again = await chat.prompt({ ...said, stream: n === 1 });
        expect([again.status, again.json]).toEqual([200, first.json]);
      }
      const heard = await promptStream(chats.app.url, chat.owner.token, said);
      expect((await heard.ended("hi")).whole).toBe(first.json.reply);
      expect(await heard.over).toBe("ended");
      expect(chats.upstream.requests).toHaveLength(1);
      expect((await chat.prompt("next")).json.message.seq).toBe(2);
    });

    test("again, when the first was cut off before its answer: one call, and the answer", async () => {
      const chat = await chats.chat();
      const said = { id: chat.id, prompt: "cut off", message_id: randomUUID() };
      const model = modelFor(chats.upstream, "cut off");
      const first = new AbortController();
      const cut = fetch(`${chats.app.url}/chat/prompt`, {
        method: "POST",
        signal: first.signal,
        headers: { authorization: `Bearer ${chat.owner.token}`, "content-type": "application/json" },
        body: JSON.stringify(said),
      });
      await model.say("Half, ");
      first.abort();
      await expect(cut).rejects.toThrow();
      const again = chat.prompt(said);
      await until(async () => (await waiting(chat)) === 2);
      await model.say("and half.");
      model.end();
      expect((await again).json).toMatchObject({ reply: "Half, and half.", message: { id: said.message_id, state: "done" } });
      expect(chats.upstream.requests).toHaveLength(1);
    });

    test("of something said off the record is one message", async () => {
      const chat = await chats.chat();
      const said = { prompt: "between us", otr: true, message_id: randomUUID() };
      const answers = await Promise.all(Array.from({ length: 10 }, () => chat.prompt(said)));
      expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
      expect(answers[0]?.json.message).toMatchObject({ id: said.message_id, state: "off_record", seq: 1 });
      expect(await chat.rows()).toHaveLength(1);
    });

    test("with anything else about it changed is refused, at once and while it is being made", async () => {
      const chat = await chats.chat();
      const said = { prompt: "hi", message_id: randomUUID() };
      const model = modelFor(chats.upstream, "hi");
      const first = chat.prompt(said);
      await model.asked;
      const others = [{ prompt: "ho" }, { model: "gpt-4o" }, { otr: true }, { context: 3 }, { context: 0 }];
      const refusals = await Promise.all(others.map((it) => chat.prompt({ ...said, ...it })));
      model.end();
      expect((await first).status).toBe(200);
      for (const other of others) refusals.push(await chat.prompt({ ...said, ...other }));
      for (const refusal of refusals) expectRefusal(refusal, 422, "idempotency_mismatch");
      expect(chats.upstream.requests).toHaveLength(1);
      expect((await chat.rows()).map(({ prompt, state }) => [prompt, state])).toEqual([["hi", "done"]]);
    });

    test("of another's is refused, in this chat and in another, and tells nothing of it", async () => {
      const [chat, other] = await Promise.all([chats.chat(1), chats.chat()]);
      const said = { prompt: "swordfish", message_id: randomUUID() };
      expect((await chat.prompt(said)).status).toBe(200);
      const refusals = [await chat.prompt(said, chat.others[0]), await other.prompt(said)];
      // One's own id in another chat of one's own is no other prompt's either.
      const mine = await chats.app.call("/chat/create", { token: chat.owner.token, body: {} });
      refusals.push(await chat.call("/chat/prompt", { ...said, id: mine.json.id }));
      for (const refusal of refusals) {
        expectRefusal(refusal, 409, "message_id_taken");
        expect(refusal.text).not.toContain("swordfish");
        expect(refusal.text).not.toContain(chat.id);
      }
      expect(chats.upstream.requests).toHaveLength(1);
      expect(await other.rows()).toEqual([]);
    });

    test("that failed fails again in the same way, without another call", async () => {
      const chat = await chats.chat();
      const said = { id: chat.id, prompt: "hi", message_id: randomUUID() };
      chats.upstream.next(faults.resetMidStream(3));
      const first = await chat.prompt(said);
      expectRefusal(first, 502, "upstream_reset");
      const again = await Promise.all([chat.prompt(said), chat.prompt({ ...said, stream: true })]);
      for (const answer of again) {
        expectRefusal(answer, 502, "upstream_reset");
        expect({ ...answer.json.error, request_id: "" }).toEqual({ ...first.json.error, request_id: "" });
      }
      const heard = await promptStream(chats.app.url, chat.owner.token, said);
      expect(await heard.over).toBe("ended");
      expect(heard.named("failed")).toMatchObject([{ error: { code: "upstream_reset" } }]);
      expect(chats.upstream.requests).toHaveLength(1);
      expect(await chat.rows()).toMatchObject([{ state: "failed", errorCode: "upstream_reset" }]);
    });

    test("that was stopped answers what came of it again", async () => {
      const chat = await chats.chat();
      const said = { prompt: "stop me", message_id: randomUUID() };
      const model = modelFor(chats.upstream, "stop me");
      const viewer = await chat.watch();
      const first = chat.prompt({ ...said, stream: true });
      await model.say("As far as this");
      await viewer.partly("stop me", "As far as this");
      await chat.call("/chat/stop", { id: said.message_id });
      const again = await chat.prompt(said);
      viewer.leave();
      expect(again.json).toEqual((await first).json);
      expect(again.json.message).toMatchObject({ state: "stopped", reply: "As far as this" });
    });

    test("different keys are different, and so are equal keys of two people or in two chats", async () => {
      const [chat, other] = await Promise.all([chats.chat(1), chats.chat()]);
      chats.upstream.when(() => true, replying("Hello"));
      const key = { "idempotency-key": "the same" };
      const answers = await Promise.all([
        chat.prompt("hi", chat.owner, key),
        chat.prompt("hi", chat.others[0], key),
        other.prompt("hi", other.owner, key),
        chat.prompt("hi", chat.owner, { "idempotency-key": "the same " }),
        chat.prompt("hi", chat.owner, { "idempotency-key": "THE SAME" }),
        chat.prompt("hi", chat.owner),
        chat.prompt("hi", chat.owner),
      ]);
      expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
      // A space at the end of a header's value is none of it.
      expect(new Set(answers.map(({ json }) => json.message.id)).size).toBe(6);
      expect(chats.upstream.requests).toHaveLength(6);
    });

    // Two hundred prompts are six hundred commits, each of which the disk has to confirm.
    const slow = { timeout: 60_000 };
    test("50 people, 4 prompts each, all at once: numbers without a gap, each context of earlier ones alone", slow, async () => {
      const chat = await chats.chat(49);
      const everyone = [chat.owner, ...chat.others];
      chats.upstream.when(
        () => true,
        async (...call) => {
          const { messages } = await sent(call[2]);
          await replying(["re: ", messages.at(-1)?.content ?? ""])(...call);
        },
      );
      const viewer = await chat.watch();
      const answers = await Promise.all(
        everyone.flatMap((by, who) =>
          Array.from({ length: 4 }, (_, n) => persistently(chat, { prompt: `${who}/${n}`, stream: n % 2 === 0 }, by)),
        ),
      );
      expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
      const rows = await chat.rows();
      expect(rows.map(({ seq }) => seq)).toEqual(Array.from({ length: 200 }, (_, i) => i + 1));
      expect((await chat.read()).map(({ seq }) => seq)).toEqual(rows.map(({ seq }) => seq));
      expect(rows.map(({ reply, state }) => [reply, state])).toEqual(rows.map(({ prompt }) => [`re: ${prompt}`, "done"]));
      expect(new Set(answers.map(({ json }) => json.message.seq)).size).toBe(200);
      for (const { json } of answers) expect(json.reply).toBe(`re: ${json.message.prompt}`);

      const seqOf = new Map(rows.map(({ prompt, seq }) => [prompt, seq]));
      const nameOf = new Map(rows.map(({ prompt, userId }) => [prompt, everyone.find(({ id }) => id === userId)?.username]));
      expect(chats.upstream.requests).toHaveLength(200);
      let withContext = 0;
      for (const body of await Promise.all(chats.upstream.requests.map(sent))) {
        const prompts = body.messages.filter(({ role }) => role === "user");
        const seqs = prompts.map(({ content }) => seqOf.get(content) ?? Number.NaN);
        expect(seqs).toEqual([...new Set(seqs)].sort((a, b) => a - b));
        for (const { content, name } of prompts) expect(name).toBe(nameOf.get(content));
        for (const [i, { role, content }] of body.messages.slice(0, -1).entries())
          if (role === "assistant") expect(content).toBe(`re: ${body.messages[i - 1]?.content}`);
        if (prompts.length > 1) withContext++;
      }
      // Had all been numbered before the first reply came, nothing would have been shown.
      if (store === "SQLite") expect(withContext).toBeGreaterThan(0);
      await viewer.until("200 ends", ({ messages }) => [...messages.values()].filter(({ ends }) => ends > 0).length === 200);
      viewer.leave();
      for (const message of viewer.messages.values()) {
        expect(message).toMatchObject({ begun: 1, ends: 1, whole: `re: ${message.prompt}` });
        if (message.deltas > 0) expect(message.streamed).toBe(message.whole);
      }
    });
  });
