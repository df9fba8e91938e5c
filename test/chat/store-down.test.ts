import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BUS_OPTIONS } from "../../lib/bus/bus.ts";
import { expectRefusal } from "../support/answers.ts";
import { freshDatabase, skippedWithoutPostgres } from "../support/postgres.ts";
import { startWire, type Wire } from "../support/wire.ts";
import { type Chat, type Chats, modelFor, promptStream, sent, startChats } from "./support.ts";

/** What a lease lasts here, so that nobody waits ten seconds for its end. */
const LEASE_MS = 4_000;

describe.skipIf(skippedWithoutPostgres("the store is down in the middle of a reply"))(
  "the store is down in the middle of a reply",
  () => {
    let database: Awaited<ReturnType<typeof freshDatabase>>;
    let wire: Wire;
    let chats: Chats;
    beforeAll(async () => {
      Object.assign(BUS_OPTIONS, { leaseMs: LEASE_MS });
      database = await freshDatabase();
      wire = await startWire(Number(new URL(database.url).port));
      chats = await startChats({ DB_ADDRESS: wire.url(database.url) });
    });
    afterAll(async () => {
      wire.refuse(false);
      await chats.close();
      await wire.close();
      await database.drop();
    });

    const down = () => {
      wire.refuse(true);
      wire.cut();
    };
    /** A reply of which this much was said, to those who watch as well where it streams. */
    async function halfway(chat: Chat, prompt: string, text: string, fields: object = {}) {
      const it = modelFor(chats.upstream, prompt);
      const answer = chat.prompt({ prompt, ...fields });
      await it.say(text);
      return { it, answer };
    }

    test("for a moment at its end: it is stored and answered whole, and those who watch hear all of it", async () => {
      const chat = await chats.chat();
      const viewer = await chat.watch();
      const [one, two] = [await halfway(chat, "one", "Spain is", { stream: true }), await halfway(chat, "two", "It")];
      const it = modelFor(chats.upstream, "three");
      const own = await promptStream(chats.app.url, chat.owner.token, { id: chat.id, prompt: "three" });
      await it.say("Here");
      await viewer.partly("one", "Spain is");
      down();
      for (const model of [one.it, two.it, it]) {
        await model.say(" whole.");
        model.end();
      }
      await own.partly("three", "Here whole.");
      await expect(chats.app.deps.store.ping()).rejects.toThrow();
      wire.refuse(false);
      expect((await one.answer).json).toMatchObject({ reply: "Spain is whole.", message: { state: "done" } });
      expect((await two.answer).json).toMatchObject({ reply: "It whole.", message: { state: "done" } });
      expect(await own.ended("three")).toMatchObject({ whole: "Here whole.", streamed: "Here whole." });
      for (const [prompt, whole] of [
        ["one", "Spain is whole."],
        ["two", "It whole."],
        ["three", "Here whole."],
      ] as const)
        expect(await viewer.ended(prompt)).toMatchObject({ whole, begun: 1, ends: 1 });
      expect(viewer.named("failed")).toEqual([]);
      viewer.leave();
      expect((await chat.rows()).map(({ state, reply }) => [state, reply])).toEqual([
        ["done", "Spain is whole."],
        ["done", "It whole."],
        ["done", "Here whole."],
      ]);
    });

    test("for long: 503, nobody new is asked, and what was said is settled with all that was heard of it", async () => {
      const [chat, quiet] = await Promise.all([chats.chat(1), chats.chat()]);
      const viewer = await chat.watch(chat.others[0]);
      const messageId = randomUUID();
      const said = { prompt: "tell me", stream: true, message_id: messageId };
      const told = await halfway(chat, "tell me", "Swordfish is", said);
      // Nobody watches this one, and it was not to be streamed.
      const silent = await halfway(quiet, "tell nobody", "Swordfish");
      await viewer.partly("tell me", "Swordfish is");
      down();
      for (const { it } of [told, silent]) {
        await it.say(" a fish.");
        it.end();
      }
      await viewer.partly("tell me", "a fish.");
      const refused = await chat.prompt("while it is down");
      expectRefusal(refused, 503, "store_unavailable");
      expect(refused.headers.get("retry-after")).toBe("2");
      const answers = await Promise.all([told.answer, silent.answer]);
      for (const answer of answers) expectRefusal(answer, 503, "store_unavailable");
      expect(viewer.find("tell me")?.ends).toBe(0);
      wire.refuse(false);
      // The lease is its producer's last sign of life, and time is all that ends it.
      await sleep(LEASE_MS);
      expect(await quiet.read()).toMatchObject([{ state: "failed", error_code: "interrupted", reply: "Swordfish a fish." }]);
      expect(await viewer.ended(messageId)).toMatchObject({
        streamed: "Swordfish is a fish.",
        whole: "Swordfish is a fish.",
        ends: 1,
      });
      expect(viewer.named("failed")).toMatchObject([{ error: { code: "interrupted" } }]);
      viewer.leave();
      expect(await chat.read()).toMatchObject([{ id: messageId, state: "failed", reply: "Swordfish is a fish." }]);
      expectRefusal(await chat.prompt(said), 502, "interrupted");
      expect((await chat.prompt("and now?")).json.message).toMatchObject({ state: "done", seq: 2 });
      const asked = await Promise.all(chats.upstream.requests.map(sent));
      const prompts = asked.map(({ messages }) => messages.at(-1)?.content);
      expect(prompts.filter((prompt) => prompt === "tell me")).toHaveLength(1);
      expect(prompts).not.toContain("while it is down");
      // What was used is in the event, whatever became of the message.
      const { deps } = chats.app;
      await deps.ledger.settled(5_000);
      for (const answer of answers) {
        const event = await chats.eventOf(answer);
        expect(event).toMatchObject({ status: 503, errorCode: "store_unavailable", promptTokens: 9, completionTokens: 12 });
      }
      expect(JSON.stringify(chats.lines)).not.toContain("Swordfish");
    });
  },
);
