import { inArray } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { describe, expect, test } from "vitest";
import * as chatList from "../../lib/repo/chat-list.ts";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as expiry from "../../lib/repo/expiry.ts";
import { inlineOf } from "../../lib/repo/images.ts";
import * as messages from "../../lib/repo/messages.ts";
import type { Store } from "../../lib/store/store.ts";
import { trials } from "../support/seed.ts";
import { changedAt, chatOf, claimed, ending, expired, newClaim, people, said, saidBefore } from "./chatting.ts";
import { at, DAY_MS } from "./people.ts";

/** How often many do something at once. */
const ROUNDS = trials(10);

/** Messages that have expired: they are seen nowhere, and go. */
export function expirySuite(current: () => Store): void {
  /** Which of these messages are there, whatever has expired. */
  const stored = async (ids: readonly string[]) => {
    const { db, messages: table } = current();
    const rows = await db
      .select({ id: table.id })
      .from(table)
      .where(inArray(table.id, [...ids]));
    return new Set(rows.map(({ id }) => id));
  };

  describe("a message that expired", () => {
    test("is seen until the instant, and in no way from then on", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const [chat, other] = [await chatOf(store, anna), await chatOf(store, anna)];
      for (const { id } of [chat, other]) await chats.addUsers(store, id, [ben.id], at(1));
      const done = await said(store, chat, ben, { prompt: "done", at: at(10) });
      const made = newClaim(other, ben, { prompt: "being made", at: at(10) });
      await claimed(store, made);

      const ways = (store: Store): Record<string, () => Promise<boolean>> => {
        const listed = () => chatList.listForMember(store, anna.id, { limit: 9, after: at() });
        const has = (found: readonly messages.Key[], { id }: messages.Key) => found.some((it) => it.id === id);
        return {
          find: async () => (await messages.find(store, done)) !== null,
          page: async () => has(await messages.page(store, chat.id, undefined, 9), done),
          "page before": async () => has(await messages.page(store, chat.id, 2, 9), done),
          changedSince: async () => has(await messages.changedSince(store, chat.id, at(), 9), done),
          running: async () => has(await messages.running(store, other.id), made),
          chatOf: async () => (await messages.chatOf(store, done.id, anna.id)) === chat.id,
          lastMessage: async () => (await listed()).find(({ id }) => id === chat.id)?.lastMessage?.id === done.id,
          unread: async () => (await listed()).find(({ id }) => id === chat.id)?.unread === 1,
          "a context": async () => {
            const claim = newClaim(chat, anna, { at: at(99), contextPairs: 1 });
            const { pairs } = await claimed(store, claim);
            await messages.remove(store, claim, anna.id);
            return pairs.some(({ prompt }) => prompt === "done");
          },
        };
      };
      const seen = async (until: Date | null) => {
        const found: Record<string, boolean> = {};
        for (const [way, sees] of Object.entries(ways(expired(store, until)))) found[way] = await sees();
        return found;
      };
      const all = (is: boolean) => Object.fromEntries(Object.keys(ways(store)).map((way) => [way, is]));
      expect(await seen(null)).toEqual(all(true));
      expect(await seen(at(9))).toEqual(all(true));
      expect(await seen(at(10))).toEqual(all(false));
      expect(await seen(at(11))).toEqual(all(false));
      // It was not touched by that, and nothing of it is lost where the limit is taken away.
      expect(await seen(null)).toEqual(all(true));
    });

    test("takes no other with it: of half that expired the younger remain, in their order", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const chat = await chatOf(store, anna);
      await chats.addUsers(store, chat.id, [ben.id], at());
      for (let i = 1; i <= 6; i++) await said(store, chat, ben, { prompt: `${i}`, at: at(i * 10) });
      const half = expired(store, at(30));
      const seqs = (found: readonly { seq: number }[]) => found.map(({ seq }) => seq);
      expect(seqs(await messages.page(half, chat.id, undefined, 9))).toEqual([6, 5, 4]);
      expect(seqs(await messages.page(half, chat.id, undefined, 2))).toEqual([6, 5]);
      expect(seqs(await messages.page(half, chat.id, 5, 9))).toEqual([4]);
      expect(seqs(await messages.page(half, chat.id, 4, 9))).toEqual([]);
      expect(seqs(await messages.changedSince(half, chat.id, at(), 9))).toEqual([4, 5, 6]);
      const context = async (contextPairs: number) => {
        const claim = newClaim(chat, anna, { at: at(99), contextPairs });
        const { pairs } = await claimed(half, claim);
        await messages.remove(store, claim, anna.id);
        return pairs.map(({ prompt }) => prompt);
      };
      expect([await context(50), await context(2)]).toEqual([
        ["6", "5", "4"],
        ["6", "5"],
      ]);
      const unread = async (after: number) =>
        (await chatList.listForMember(half, anna.id, { limit: 1, after: at(after) }))[0]?.unread;
      // Those are counted which are younger than both.
      expect([await unread(0), await unread(30), await unread(40), await unread(60)]).toEqual([3, 3, 2, 0]);
    });

    test("stays away when its reply ends or changes later, for it is as old as its prompt", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chatOf(store, anna);
      const slow = newClaim(chat, anna, { prompt: "slow", at: at(1) });
      await claimed(store, slow);
      await messages.end(store, slow, ending(), at(100));
      const later = expired(store, at(50));
      expect(await messages.changedSince(later, chat.id, at(60), 9)).toEqual([]);
      expect(await messages.find(later, slow)).toBeNull();
      expect((await claimed(later, newClaim(chat, anna, { at: at(101) }))).pairs).toEqual([]);
    });

    test("leaves its chat where it is in the list, with nothing to show", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chatOf(store, anna);
      await said(store, chat, anna, { at: at(5) });
      const listed = await chatList.listForMember(expired(store, at(5)), anna.id, { limit: 9, after: at(4) });
      expect(listed).toMatchObject([{ id: chat.id, lastSeq: 1, updatedAt: at(5), lastMessage: null, unread: 0 }]);
    });
  });

  describe("the id of a message that expired", () => {
    test("is free again: another prompt gets it with a number of its own, and nothing of the old one is left", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const [chat, bens] = [await chatOf(store, anna), await chatOf(store, ben)];
      const image = "data:image/png;base64,b2xk";
      const old = await said(store, chat, anna, { prompt: "old", image, at: at(1) });
      const elsewhere = await said(store, bens, ben, { prompt: "elsewhere", at: at(1) });
      const later = expired(store, at(1));

      const again = newClaim(chat, anna, { id: old.id, prompt: "new", fingerprint: "another", at: at(2) });
      const { chat: found, message, pairs } = await claimed(later, again);
      expect(message).toMatchObject({ id: old.id, seq: 2, prompt: "new", reply: "", state: "streaming", image: null });
      expect(message).toMatchObject({ requestId: again.requestId, fingerprint: "another", createdAt: at(2) });
      expect([found.lastSeq, found.updatedAt, pairs]).toEqual([2, at(2), []]);
      expect(await messages.page(store, chat.id, undefined, 9)).toEqual([message]);
      expect(await inlineOf(store, [old.id])).toEqual(new Map());

      const taken = await claimed(later, newClaim(chat, anna, { id: elsewhere.id, prompt: "here", at: at(3) }));
      expect(taken.message).toMatchObject({ id: elsewhere.id, chatId: chat.id, seq: 3, userId: anna.id });
      expect(await messages.page(store, bens.id, undefined, 9)).toEqual([]);
    });

    test("is not free one millisecond earlier, nor where nothing expires", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chatOf(store, anna);
      const old = await said(store, chat, anna, { prompt: "old", at: at(2) });
      for (const until of [null, at(1)]) {
        const again = newClaim(chat, anna, { id: old.id, prompt: "new", at: at(9) });
        expect((await claimed(expired(store, until), again)).message).toEqual(old);
      }
    });

    test("is not free for somebody who does not see the chat, and the message stays until it is deleted", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const chat = await chatOf(store, anna);
      const old = await said(store, chat, anna, { at: at(1) });
      expect(await claims.claim(expired(store, at(1)), newClaim(chat, ben, { id: old.id, at: at(2) }))).toBeNull();
      expect(await stored([old.id])).toEqual(new Set([old.id]));
      expect(await changedAt(store, chat)).toEqual(at(1));
    });

    test("that many ask for at the same time is one message of one of them, which all are answered", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chatOf(store, anna);
      const later = expired(store, at(1));
      for (let round = 0; round < ROUNDS; round++) {
        const old = await said(store, chat, anna, { at: at(1) });
        const asked = Array.from({ length: 10 }, () => newClaim(chat, anna, { id: old.id, prompt: "new", at: at(2) }));
        const answers = await Promise.all(asked.map((claim) => claims.claim(later, claim)));
        const made = answers.map((it) => it?.message.requestId);
        expect(asked.map(({ requestId }) => requestId)).toContain(made[0]);
        expect(made).toEqual(made.map(() => made[0]));
        expect(await stored([old.id])).toEqual(new Set([old.id]));
      }
    });
  });

  // Whatever is as old as that goes with it, so each of these tests is in a time of its own, before those of the others.
  describe("pruning", () => {
    const ago = (years: number, ms: number) => at(-years * 365 * DAY_MS + ms);
    const left = async (chatId: string) => (await messages.page(current(), chatId, undefined, 1_000)).map(({ seq }) => seq);

    test("deletes what has expired, the oldest first, and at most so many at a time", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const [chat, other] = [await chatOf(store, anna), await chatOf(store, anna)];
      // The one that was made last is the oldest.
      for (const ms of [30, 10, 40, 20]) await said(store, chat, anna, { at: ago(30, ms) });
      await said(store, other, anna, { at: ago(30, 15) });
      const later = expired(store, ago(30, 30));
      expect(await expiry.prune(later, 1)).toBe(1);
      expect([await left(chat.id), await left(other.id)]).toEqual([[4, 3, 1], [1]]);
      expect(await expiry.prune(later, 2)).toBe(2);
      expect([await left(chat.id), await left(other.id)]).toEqual([[3, 1], []]);
      expect(await expiry.prune(later, 100)).toBe(1);
      expect(await left(chat.id)).toEqual([3]);
      expect(await expiry.prune(later, 100)).toBe(0);
    });

    test("deletes at the instant, not a millisecond before it, and nothing where nothing expires", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chatOf(store, anna);
      await said(store, chat, anna, { at: ago(40, 10) });
      for (const until of [null, ago(40, 9)]) expect(await expiry.prune(expired(store, until), 100)).toBe(0);
      expect(await left(chat.id)).toEqual([1]);
      expect(await expiry.prune(expired(store, ago(40, 10)), 100)).toBe(1);
      expect(await left(chat.id)).toEqual([]);
    });

    test("takes images with their messages, and a reply that is still being made, which then ends nowhere", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chatOf(store, anna);
      const image = "data:image/png;base64,AAAA";
      const [old, young] = [newClaim(chat, anna, { image, at: ago(50, 1) }), newClaim(chat, anna, { image, at: ago(50, 3) })];
      for (const claim of [old, young]) await claimed(store, claim);
      expect(await expiry.prune(expired(store, ago(50, 2)), 100)).toBe(1);
      expect(await inlineOf(store, [old.id, young.id])).toEqual(new Map([[young.id, image]]));
      expect(await messages.end(store, old, ending(), ago(50, 9))).toBeNull();
      expect(await changedAt(store, chat)).toEqual(at());
      expect((await claimed(store, newClaim(chat, anna, { at: ago(50, 4) }))).message.seq).toBe(3);
    });

    test("at many places at once, while people prompt and clear, deletes each once, and nothing that is younger", {
      timeout: 20_000 + ROUNDS * 1_000,
    }, async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const later = expired(store, ago(60, 0));
      for (let round = 0; round < ROUNDS; round++) {
        const several = await Promise.all(Array.from({ length: 4 }, () => chatOf(store, anna)));
        const cleared = several.slice(0, 2);
        const old = (await Promise.all(several.map((chat) => saidBefore(store, chat, anna, 50, ago(60, 0))))).flat();
        let gone = 0;
        const young: string[] = [];
        const prune = (limit: number) => async () => {
          const these = await expiry.prune(later, limit);
          gone += these;
        };
        const clear = (chat: chats.ChatView) => async () => {
          await messages.clear(later, chat.id, anna.id, at());
        };
        const prompt = (chat: chats.ChatView, i: number) => async () => {
          const claim = newClaim(chat, anna, { at: ago(60, 1 + i) });
          await claimed(later, claim);
          await messages.end(later, claim, ending(), claim.at);
          if (!cleared.includes(chat)) young.push(claim.id);
        };
        const work = [...cleared.map(clear), prune(120), prune(37), prune(80), ...several.map(prompt), prune(100)];
        await Promise.all(work.map((it) => it()));
        for (let most = 200; most > 0; most -= 50) await prune(50)();
        expect([await expiry.prune(later, 100), await stored(old)]).toEqual([0, new Set()]);
        expect(await stored(young)).toEqual(new Set(young));
        expect(young).toHaveLength(2);
        // All but those that a clear was first to delete, each counted by one.
        expect(gone).toBeGreaterThanOrEqual(100);
        expect(gone).toBeLessThanOrEqual(200);
      }
    });

    test("leaves the audit log and the chat as they are", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chatOf(store, anna);
      await said(store, chat, anna, { at: ago(70, 1) });
      const before = [await chats.findForMember(store, chat.id, anna.id), await store.db.$count(store.events)];
      expect(await expiry.prune(expired(store, ago(70, 1)), 100)).toBe(1);
      expect([await chats.findForMember(store, chat.id, anna.id), await store.db.$count(store.events)]).toEqual(before);
      expect((await claimed(store, newClaim(chat, anna, { id: uuidv7() }))).message.seq).toBe(2);
    });
  });
}
