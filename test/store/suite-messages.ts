import { eq } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { describe, expect, test } from "vitest";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as messages from "../../lib/repo/messages.ts";
import type { Store } from "../../lib/store/store.ts";
import { trials } from "../support/seed.ts";
import { atATime, changedAt, chatOf, claimed, ending, groupOf, newClaim, people, said } from "./chatting.ts";
import { at } from "./people.ts";

const USERS = 50;
/** Of each user; with `TRIALS=200` there are 10,000. */
const PROMPTS = trials(10);

/** Prompts and their replies. */
export function messagesSuite(current: () => Store): void {
  const rowsOf = async (chatId: string) => {
    const { db, messages: table } = current();
    return db.select().from(table).where(eq(table.chatId, chatId)).orderBy(table.seq);
  };
  const seqsOf = async (chatId: string) => (await rowsOf(chatId)).map(({ seq }) => seq);
  const lastSeq = async ({ id, ownerId }: { id: string; ownerId: string }) =>
    (await chats.findForMember(current(), id, ownerId))?.lastSeq;

  describe("a claim", () => claimSuite(current, rowsOf, seqsOf, lastSeq));
  describe("an end", () => endSuite(current, lastSeq));
  describe("a page", () => pageSuite(current));

  test("many people prompt in one chat at the same time: numbers are dense, contexts hold what was before, and all read one order", {
    timeout: 20_000 + PROMPTS * 2_000,
  }, async () => {
    const store = current();
    const names = Array.from({ length: USERS }, (_, i) => `p${i}`);
    const members = Object.values(await people(store, ...names));
    const [owner] = members as [(typeof members)[0]];
    const group = await groupOf(store, owner, ...members.slice(1));
    const chat = await chatOf(store, owner, { groupId: group.id });

    const claims: claims.Claim[] = [];
    for (let i = 0; i < PROMPTS; i++) for (const user of members) claims.push(newClaim(chat, user, { prompt: `${i}` }));
    const contexts: { seq: number; pairs: claims.Pair[] }[] = [];
    /** What a reader saw at some time: the chat's newest messages. */
    const seen: { id: string; seq: number }[][] = [];
    const ask = (claim: claims.Claim, i: number) => async () => {
      const { message, pairs } = await claimed(store, claim);
      contexts.push({ seq: message.seq, pairs });
      // The reply says its number, so that a context tells where it is from; the last of them end before their prompters read on.
      await messages.end(store, claim, ending({ reply: `${message.seq}` }), at(message.seq));
      if (i % 50 === 0) seen.push(await messages.page(store, chat.id, undefined, 100));
      return message;
    };
    const made = await atATime(USERS, claims.map(ask));

    const rows = await rowsOf(chat.id);
    expect(rows.map(({ seq }) => seq)).toEqual(Array.from({ length: USERS * PROMPTS }, (_, i) => i + 1));
    expect(new Map(made.map(({ id, seq }) => [id, seq]))).toEqual(new Map(rows.map(({ id, seq }) => [id, seq])));
    expect(await lastSeq({ id: chat.id, ownerId: owner.id })).toBe(USERS * PROMPTS);

    const idOf = new Map(rows.map(({ id, seq }) => [seq, id]));
    for (const page of seen) {
      // Nobody ever saw a number while one before it was still to come.
      const [newest = 0] = page.map(({ seq }) => seq);
      expect(page.map(({ seq }) => seq)).toEqual(page.map((_, i) => newest - i));
      expect(page.map(({ id }) => id)).toEqual(page.map(({ seq }) => idOf.get(seq)));
    }
    let full = 0;
    for (const { seq, pairs } of contexts) {
      const numbers = pairs.map(({ reply }) => Number(reply));
      expect(numbers).toEqual(numbers.toSorted((a, b) => b - a));
      expect(Math.max(0, ...numbers)).toBeLessThan(seq);
      expect(new Set(numbers).size).toBe(numbers.length);
      if (pairs.length === 10) full++;
    }
    expect(full).toBeGreaterThan(0);
  });
}

function claimSuite(
  current: () => Store,
  rowsOf: (chatId: string) => Promise<messages.Message[]>,
  seqsOf: (chatId: string) => Promise<number[]>,
  lastSeq: (chat: { id: string; ownerId: string }) => Promise<number | undefined>,
): void {
  test("stores the prompt with the next number, and answers the chat, the message and what was said before it", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const image = "https://images.example/one.png";
    const one = await said(store, chat, anna, { prompt: "one", image }, { reply: "eins", contextTokens: 5 });
    const two = await said(store, chat, anna, { prompt: "two" }, { reply: "zwei", contextTokens: 6 });
    const claim = newClaim(chat, anna, { prompt: 'naïve 🎉 "it\'s" \\ \n日本', at: at(3), model: "o9" });
    const { chat: found, message, pairs, systemPrompt } = await claimed(store, claim);
    expect(found).toEqual({ ...chat, lastSeq: 3, updatedAt: at(3) });
    expect(systemPrompt).toBeNull();
    expect(message).toEqual({
      ...{ id: claim.id, chatId: chat.id, seq: 3, userId: anna.id, username: anna.username, state: "streaming" },
      ...{ prompt: claim.prompt, reply: "", model: "o9", requestId: claim.requestId, fingerprint: "print" },
      ...{ contextTokens: null, promptTokens: null, completionTokens: null, stoppedBy: null, errorCode: null },
      ...{ flagged: null, image: null, createdAt: at(3), updatedAt: at(3) },
    });
    const { username } = anna;
    expect(pairs).toEqual([
      { id: two.id, prompt: "two", reply: "zwei", image: null, username, tokens: 6 },
      { id: one.id, prompt: "one", reply: "eins", image, username, tokens: 5 },
    ]);
    expect((await claimed(store, newClaim(chat, anna))).message.model).toBe("gpt-4o");
  });

  test("gives no number twice, also when the newest messages were deleted", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const made = [await said(store, chat, anna), await said(store, chat, anna), await said(store, chat, anna)];
    for (const message of made.slice(1)) expect(await messages.remove(store, message, anna.id)).toBe(true);
    expect((await claimed(store, newClaim(chat, anna))).message.seq).toBe(4);
    expect(await seqsOf(chat.id)).toEqual([1, 4]);
    await messages.remove(store, made[0] as messages.Key, anna.id);
    expect((await claimed(store, newClaim(chat, anna))).message.seq).toBe(5);
  });

  test("of one id at the same time is one message of one of them, and leaves no gap", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const chat = await chatOf(store, anna);
    await chats.addUsers(store, chat.id, [ben.id], at());
    const ids = Array.from({ length: 10 }, () => uuidv7());
    const claims = ids.flatMap((id) => Array.from({ length: 10 }, (_, i) => newClaim(chat, i % 2 ? anna : ben, { id })));
    const answers = await Promise.all(claims.map((claim) => claimed(store, claim)));
    for (const id of ids) {
      const same = answers.filter(({ message }) => message.id === id);
      expect(same).toHaveLength(10);
      const [first] = same;
      for (const { message } of same) expect(message).toEqual(first?.message);
      const owners = claims.filter((claim) => claim.requestId === first?.message.requestId);
      expect(owners.map(({ id, userId }) => [id, userId])).toEqual([[id, first?.message.userId]]);
    }
    expect(await seqsOf(chat.id)).toEqual(ids.map((_, i) => i + 1));
    expect(await lastSeq(chat)).toBe(10);
  });

  test("that is repeated changes nothing, whoever was there meanwhile, and has the context that it had", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    await said(store, chat, anna, { prompt: "before" });
    const claim = newClaim(chat, anna, { at: at(2) });
    const first = await claimed(store, claim);
    const again = await claimed(store, claim);
    expect(again).toEqual(first);
    await said(store, chat, anna, { prompt: "after", at: at(3) });
    const late = await claimed(store, { ...claim, requestId: uuidv7(), prompt: "another", at: at(99) });
    expect(late.message).toEqual(first.message);
    expect(late.pairs).toEqual(first.pairs);
    expect(await changedAt(store, chat)).toEqual(at(3));
    expect(await lastSeq(chat)).toBe(3);
  });

  test("of an id that is a message of another chat answers that message, and changes neither chat", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const [chat, bens] = [await chatOf(store, anna), await chatOf(store, ben)];
    await said(store, chat, anna);
    const taken = await said(store, bens, ben, { prompt: "secret" });
    const { message, pairs } = await claimed(store, newClaim(chat, anna, { id: taken.id, at: at(9) }));
    expect([message.chatId, message.userId, pairs]).toEqual([bens.id, ben.id, []]);
    expect([await seqsOf(chat.id), await seqsOf(bens.id)]).toEqual([[1], [1]]);
    expect([await lastSeq(chat), await changedAt(store, chat)]).toEqual([1, at()]);
    expect((await claimed(store, newClaim(chat, anna))).message.seq).toBe(2);

    const id = uuidv7();
    const claims = Array.from({ length: 20 }, (_, i) => newClaim(i % 2 ? chat : bens, i % 2 ? anna : ben, { id }));
    const answers = await Promise.all(claims.map((claim) => claimed(store, claim)));
    expect(new Set(answers.map((it) => it.message.requestId)).size).toBe(1);
    const rows = [...(await rowsOf(chat.id)), ...(await rowsOf(bens.id))].filter((row) => row.id === id);
    expect(rows).toHaveLength(1);
    expect([await seqsOf(chat.id), await seqsOf(bens.id)].map((seqs) => seqs.length).toSorted()).toEqual(
      rows[0]?.chatId === chat.id ? [1, 3] : [2, 2],
    );
    for (const it of [chat, bens]) expect(await seqsOf(it.id)).toEqual((await seqsOf(it.id)).map((_, i) => i + 1));
  });

  test("of somebody who does not see the chat is null and writes nothing", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const chat = await chatOf(store, anna, { createdAt: at(1) });
    const mine = await said(store, chat, anna, { at: at(2) });
    for (const change of [{}, { id: mine.id }, { offTheRecord: true }]) {
      expect(await claims.claim(store, newClaim(chat, ben, { at: at(9), ...change }))).toBeNull();
      expect(await claims.claim(store, newClaim({ id: uuidv7() }, ben, { at: at(9), ...change }))).toBeNull();
    }
    expect([await seqsOf(chat.id), await lastSeq(chat), await changedAt(store, chat)]).toEqual([[1], 1, at(2)]);
    await chats.addUsers(store, chat.id, [ben.id], at(3));
    expect((await claimed(store, newClaim(chat, ben))).message.seq).toBe(2);
    await chats.removeUsers(store, chat.id, [ben.id]);
    expect(await claims.claim(store, newClaim(chat, ben))).toBeNull();
  });

  test("off the record is complete as it is, and in no context", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const claim = newClaim(chat, anna, { prompt: "psst", offTheRecord: true, contextPairs: 0 });
    const { message } = await claimed(store, claim);
    expect(message).toMatchObject({ state: "off_record", seq: 1, reply: "", contextTokens: null });
    expect(await messages.end(store, message, ending(), at(5))).toEqual(message);
    await said(store, chat, anna, { prompt: "aloud" });
    const { pairs } = await claimed(store, newClaim(chat, anna));
    expect(pairs.map(({ prompt }) => prompt)).toEqual(["aloud"]);
    expect(await messages.running(store, chat.id)).toHaveLength(1);
  });

  test("gets as many earlier pairs as it asks for, none of them where that is 0", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    for (const prompt of ["1", "2", "3"]) await said(store, chat, anna, { prompt });
    const pairs = async (contextPairs: number) =>
      (await claimed(store, newClaim(chat, anna, { contextPairs }))).pairs.map(({ prompt }) => prompt);
    expect([await pairs(0), await pairs(1), await pairs(2), await pairs(50)]).toEqual([[], ["3"], ["3", "2"], ["3", "2", "1"]]);
  });

  test("is told the chat's system prompt, else the global one", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const systemPrompt = async () => (await claimed(store, newClaim(chat, anna))).systemPrompt;
    const own = (text: string | null) =>
      store.db.update(store.chats).set({ systemPrompt: text }).where(eq(store.chats.id, chat.id));
    expect(await systemPrompt()).toBeNull();
    await store.db.insert(store.settings).values({ key: "system_prompt", value: "Be brief 🎉." });
    expect(await systemPrompt()).toBe("Be brief 🎉.");
    await own("Be long.");
    expect(await systemPrompt()).toBe("Be long.");
    await own(null);
    await store.db.delete(store.settings).where(eq(store.settings.key, "system_prompt"));
    expect(await systemPrompt()).toBeNull();
  });
}

function endSuite(current: () => Store, lastSeq: (chat: { id: string; ownerId: string }) => Promise<number | undefined>): void {
  test("is kept as given, and the chat has changed with it", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const chat = await chatOf(store, anna);
    const claim = newClaim(chat, anna);
    const { message } = await claimed(store, claim);
    const end = ending({
      state: "stopped",
      reply: "half 🎉",
      stoppedBy: ben.id,
      errorCode: "e",
      contextTokens: 2 ** 30,
      flagged: "a,b/c",
    });
    expect(await messages.end(store, claim, end, at(5))).toEqual({ ...message, ...end, updatedAt: at(5) });
    expect(await messages.find(store, claim)).toEqual({ ...message, ...end, updatedAt: at(5) });
    expect(await changedAt(store, chat)).toEqual(at(5));
  });

  test("counts once: a later one changes nothing, of the chat neither, and answers the first", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const first = await said(store, chat, anna, { at: at(1) }, { reply: "first" });
    const others = [ending({ reply: "second" }), ending({ state: "failed", errorCode: messages.INTERRUPTED, reply: "" })];
    for (const end of others) expect(await messages.end(store, first, end, at(9))).toEqual(first);
    expect(await changedAt(store, chat)).toEqual(at(1));

    const claim = newClaim(chat, anna);
    await claimed(store, claim);
    const at20 = Array.from({ length: 20 }, (_, i) => messages.end(store, claim, ending({ reply: `${i}` }), at(2)));
    const answers = await Promise.all(at20);
    expect(new Set(answers.map((it) => it?.reply)).size).toBe(1);
    expect(await messages.find(store, claim)).toEqual(answers[0]);
  });

  test("that was only guessed is overruled by the producer, once, and by no other guess", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const claim = newClaim(chat, anna);
    await claimed(store, claim);
    const guess = ending({ state: "failed", reply: "ha", contextTokens: null, errorCode: messages.INTERRUPTED });
    const guessed = await messages.end(store, claim, guess, at(1));
    expect(guessed).toMatchObject({ state: "failed", reply: "ha", errorCode: "interrupted" });
    expect(await messages.end(store, claim, { ...guess, reply: "" }, at(2))).toEqual(guessed);
    const ended = await messages.end(store, claim, ending({ reply: "half" }), at(3));
    expect(ended).toMatchObject({ state: "done", reply: "half", errorCode: null, contextTokens: 7, updatedAt: at(3) });
    expect(await messages.end(store, claim, guess, at(4))).toEqual(ended);
    expect(await messages.end(store, claim, ending({ reply: "other" }), at(5))).toEqual(ended);
    expect(await changedAt(store, chat)).toEqual(at(3));
  });

  test("of a message that is gone, or is named with another chat, is null and changes nothing", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const [chat, other] = [await chatOf(store, anna), await chatOf(store, anna)];
    const claim = newClaim(chat, anna, { at: at(1) });
    const { message } = await claimed(store, claim);
    expect(await messages.end(store, { ...claim, chatId: other.id }, ending(), at(9))).toBeNull();
    expect(await messages.end(store, { ...claim, requestId: uuidv7() }, ending(), at(9))).toBeNull();
    expect(await messages.find(store, { id: claim.id, chatId: other.id })).toBeNull();
    expect(await messages.find(store, claim)).toEqual(message);
    await messages.remove(store, claim, anna.id);
    expect(await messages.end(store, claim, ending(), at(9))).toBeNull();
    expect([await changedAt(store, chat), await changedAt(store, other), await lastSeq(chat)]).toEqual([at(1), at(), 1]);
  });

  test("with tokens puts the pair in later contexts, however it ended; without, it is in none", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    await said(store, chat, anna, { prompt: "done" });
    await said(store, chat, anna, { prompt: "stopped" }, { state: "stopped" });
    await said(store, chat, anna, { prompt: "failed" }, { state: "failed", contextTokens: null });
    await said(store, chat, anna, { prompt: "empty" }, { reply: "", contextTokens: null });
    await claimed(store, newClaim(chat, anna, { prompt: "running" }));
    const gone = await said(store, chat, anna, { prompt: "gone" });
    await messages.remove(store, gone, anna.id);
    const { pairs } = await claimed(store, newClaim(chat, anna));
    expect(pairs.map(({ prompt }) => prompt)).toEqual(["stopped", "done"]);
  });

  test("is asked for once: who asked first is noted, for one reply that runs or for all, and for no other", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const [chat, other] = [await chatOf(store, anna), await chatOf(store, anna)];
    const done = await said(store, chat, anna);
    const [one, two, elsewhere] = [newClaim(chat, anna), newClaim(chat, anna), newClaim(other, anna)];
    for (const claim of [one, two, elsewhere]) await claimed(store, claim);
    const stoppers = async () =>
      Promise.all([done, one, two, elsewhere].map(async (it) => (await messages.find(store, it))?.stoppedBy));
    expect(await messages.askToStop(store, chat.id, done.id, ben.id)).toEqual([]);
    expect(await messages.askToStop(store, other.id, one.id, ben.id)).toEqual([]);
    expect(await messages.askToStop(store, chat.id, one.id, ben.id)).toEqual([{ id: one.id, requestId: one.requestId }]);
    expect(await stoppers()).toEqual([null, ben.id, null, null]);
    const asked = await messages.askToStop(store, chat.id, undefined, anna.id);
    expect(new Map(asked.map(({ id, requestId }) => [id, requestId]))).toEqual(
      new Map([one, two].map(({ id, requestId }) => [id, requestId])),
    );
    expect(await stoppers()).toEqual([null, ben.id, anna.id, null]);
    expect(await changedAt(store, chat)).toEqual(at());
  });

  test("of all shows nothing running any more", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const claims = [newClaim(chat, anna), newClaim(chat, anna)];
    for (const claim of claims) await claimed(store, claim);
    const running = async () => (await messages.running(store, chat.id)).map(({ id, username }) => [id, username]).toSorted();
    expect(await running()).toEqual(claims.map(({ id }) => [id, anna.username]).toSorted());
    for (const claim of claims) await messages.end(store, claim, ending(), at(1));
    expect(await running()).toEqual([]);
  });
}

function pageSuite(current: () => Store): void {
  test("is the newest messages, or those before a number, newest first, over gaps", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const [chat, other] = [await chatOf(store, anna), await chatOf(store, anna)];
    await said(store, other, anna);
    const made: messages.MessageView[] = [];
    for (let i = 0; i < 6; i++) made.push(await said(store, chat, anna, { prompt: `${i + 1}` }));
    await messages.remove(store, made[3] as messages.Key, anna.id);
    const page = async (before: number | undefined, limit: number) =>
      (await messages.page(store, chat.id, before, limit)).map(({ seq }) => seq);
    expect(await page(undefined, 100)).toEqual([6, 5, 3, 2, 1]);
    expect(await page(undefined, 2)).toEqual([6, 5]);
    expect(await page(5, 2)).toEqual([3, 2]);
    expect(await page(2, 2)).toEqual([1]);
    expect(await page(1, 2)).toEqual([]);
    expect(await messages.page(store, chat.id, 3, 1)).toEqual([made[1]]);
    expect(await messages.page(store, uuidv7(), undefined, 9)).toEqual([]);
  });

  test("of what changed since an instant is in order, of the newest so many only", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const [chat, other] = [await chatOf(store, anna), await chatOf(store, anna)];
    await said(store, other, anna, { at: at(50) });
    const slow = newClaim(chat, anna, { at: at(1) });
    await claimed(store, slow);
    await said(store, chat, anna, { at: at(2) });
    await said(store, chat, anna, { at: at(3) });
    await messages.end(store, slow, ending(), at(9));
    const changed = async (since: Date, limit = 100) =>
      (await messages.changedSince(store, chat.id, since, limit)).map(({ seq }) => seq);
    expect(await changed(at(3))).toEqual([1, 3]);
    expect(await changed(at(4))).toEqual([1]);
    expect(await changed(at(10))).toEqual([]);
    expect(await changed(at(0), 2)).toEqual([2, 3]);
    expect(await messages.changedSince(store, uuidv7(), at(0), 9)).toEqual([]);
    const [first] = await messages.changedSince(store, chat.id, at(4), 100);
    expect(first).toEqual(await messages.find(store, slow));
  });

  test("loses a message by its author's hand or the chat owner's, and by no other", async () => {
    const store = current();
    const { owner, author, other } = await people(store, "owner", "author", "other");
    const [chat, others] = [await chatOf(store, owner), await chatOf(store, other)];
    await chats.addUsers(store, chat.id, [author.id, other.id], at());
    const [one, two] = [await said(store, chat, author), await said(store, chat, author)];
    const remove = ({ id }: messages.Key, user: { id: string }, chatId = chat.id) =>
      messages.remove(store, { id, chatId }, user.id);
    expect(await remove(one, other)).toBe(false);
    expect(await remove(one, other, others.id)).toBe(false);
    expect(await remove({ id: uuidv7(), chatId: chat.id }, owner)).toBe(false);
    expect(await messages.page(store, chat.id, undefined, 9)).toHaveLength(2);
    expect([await remove(one, author), await remove(two, owner), await remove(two, owner)]).toEqual([true, true, false]);
    expect(await messages.page(store, chat.id, undefined, 9)).toEqual([]);
    expect(await messages.chatOf(store, one.id, owner.id)).toBeNull();
  });
}
