import { and, eq, lte } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { expect, test } from "vitest";
import * as chats from "../../lib/repo/chats.ts";
import type * as claims from "../../lib/repo/claims.ts";
import { inlineOf } from "../../lib/repo/images.ts";
import * as messages from "../../lib/repo/messages.ts";
import type { Store } from "../../lib/store/store.ts";
import { trials } from "../support/seed.ts";
import { atATime, chatOf, claimed, ending, groupOf, newClaim, people, said } from "./chatting.ts";
import { at } from "./people.ts";

const USERS = 20;
/** Of each user. */
const PROMPTS = trials(8);

const byId = (one: { id: string }, other: { id: string }) => one.id.localeCompare(other.id);

/** A chat whose messages are cleared. */
export function clearSuite(current: () => Store): void {
  const countUpTo = ({ id }: { id: string }, upTo: number) => {
    const { db, messages: table } = current();
    return db.$count(table, and(eq(table.chatId, id), lte(table.seq, upTo)));
  };

  test("a clear deletes all that was said, and answers up to where, and what was being made or has just ended", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const [chat, other] = [await chatOf(store, anna), await chatOf(store, anna)];
    await chats.addUsers(store, chat.id, [ben.id], at());
    const kept = await said(store, other, anna);
    const image = "data:image/png;base64,AAAA";
    const done = await said(store, chat, anna, { image, at: at(-60_000) });
    await claimed(store, newClaim(chat, ben, { offTheRecord: true, contextPairs: 0, at: at(-59_000) }));
    const justDone = await said(store, chat, anna, { at: at(2) });
    const running = [newClaim(chat, anna, { at: at(3) }), newClaim(chat, ben, { at: at(4) })];
    for (const claim of running) await claimed(store, claim);

    const cleared = await messages.clear(store, chat.id, anna.id, at(5));
    expect(cleared?.upTo).toBe(5);
    const told = [justDone, ...running].map(({ id, requestId }) => ({ id, requestId }));
    expect(cleared?.replies.toSorted(byId)).toEqual(told.toSorted(byId));
    expect(await countUpTo(chat, 9)).toBe(0);
    expect(await inlineOf(store, [done.id])).toEqual(new Map());
    expect(await messages.page(store, other.id, undefined, 9)).toEqual([kept]);
    const after = { ...chat, shared: true, lastSeq: 5, clearedSeq: 5, updatedAt: at(5) };
    expect(await chats.findForMember(store, chat.id, ben.id)).toEqual(after);

    // What was being made ends nowhere, and changes the chat no more.
    for (const claim of running) expect(await messages.end(store, claim, ending(), at(9))).toBeNull();
    expect(await chats.findForMember(store, chat.id, anna.id)).toEqual(after);
  });

  test("numbers go on behind a clear, and contexts begin anew", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const [one, two] = [await said(store, chat, anna, { prompt: "one" }), await said(store, chat, anna, { prompt: "two" })];
    await messages.remove(store, two, anna.id);
    expect(await messages.clear(store, chat.id, anna.id, at(1))).toMatchObject({ upTo: 2, replies: [{ id: one.id }] });
    const { message, pairs, chat: found } = await claimed(store, newClaim(chat, anna, { prompt: "three" }));
    expect([message.seq, pairs, found.clearedSeq]).toEqual([3, [], 2]);
    await messages.end(store, message, ending(), at(2));
    expect((await claimed(store, newClaim(chat, anna))).pairs.map(({ prompt }) => prompt)).toEqual(["three"]);
    // The id of what was cleared is free, as after a message was deleted.
    expect((await claimed(store, newClaim(chat, anna, { id: one.id, prompt: "again" }))).message).toMatchObject({ seq: 5 });
    expect(await messages.clear(store, chat.id, anna.id, at(3))).toMatchObject({ upTo: 5 });
    expect(await messages.clear(store, chat.id, anna.id, at(4))).toEqual({ upTo: 5, replies: [] });
  });

  test("a chat in which nothing was said is cleared up to nothing", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna, { createdAt: at(7) });
    expect(await messages.clear(store, chat.id, anna.id, at(5))).toEqual({ upTo: 0, replies: [] });
    // A clear that was begun before another change does not set the chat back.
    expect(await chats.findForMember(store, chat.id, anna.id)).toEqual({ ...chat, clearedSeq: 0, updatedAt: at(7) });
  });

  test("only its owner clears a chat: for its users, its group's members and strangers nothing changes", async () => {
    const store = current();
    const { owner, user, member, boss, stranger } = await people(store, "owner", "user", "member", "boss", "stranger");
    const group = await groupOf(store, boss, owner, member);
    const chat = await chatOf(store, owner, { groupId: group.id });
    await chats.addUsers(store, chat.id, [user.id], at());
    const message = (await claimed(store, newClaim(chat, user, { at: at(1) }))).message;
    const before = await chats.findForMember(store, chat.id, owner.id);
    for (const { id } of [user, member, boss, stranger]) expect(await messages.clear(store, chat.id, id, at(9))).toBeNull();
    expect(await messages.clear(store, uuidv7(), owner.id, at(9))).toBeNull();
    expect(await messages.page(store, chat.id, undefined, 9)).toEqual([message]);
    expect(await chats.findForMember(store, chat.id, owner.id)).toEqual(before);
    expect(await messages.clear(store, chat.id, owner.id, at(9))).toMatchObject({ upTo: 1, replies: [{ id: message.id }] });
  });

  test("while many prompt, what a clear answered is gone, and what comes later is whole and knows nothing of it", {
    timeout: 20_000 + PROMPTS * 2_000,
  }, async () => {
    const store = current();
    const names = Array.from({ length: USERS }, (_, i) => `p${i}`);
    const members = Object.values(await people(store, ...names));
    const [owner] = members as [(typeof members)[0]];
    const chat = await chatOf(store, owner, { groupId: (await groupOf(store, owner, ...members.slice(1))).id });

    const made = new Map<number, string>();
    const contexts: { seq: number; earlier: number[] }[] = [];
    const clears: messages.Cleared[] = [];
    const ends: { seq: number; ended: boolean }[] = [];
    const prompt = (claim: claims.Claim) => async () => {
      const { message, pairs } = await claimed(store, claim);
      const { seq } = message;
      made.set(seq, claim.id);
      // The reply says its number, so that a context tells where it is from.
      contexts.push({ seq, earlier: pairs.map(({ reply }) => Number(reply)) });
      ends.push({ seq, ended: (await messages.end(store, claim, ending({ reply: `${seq}` }), at(seq))) !== null });
    };
    const clear = async () => {
      const cleared = await messages.clear(store, chat.id, owner.id, at());
      if (!cleared) throw new Error("the chat is gone");
      clears.push(cleared);
      expect(await countUpTo(chat, cleared.upTo)).toBe(0);
    };
    const work: (() => Promise<void>)[] = [];
    for (let i = 0; i < PROMPTS; i++) {
      for (const user of members) work.push(prompt(newClaim(chat, user)));
      work.push(clear, clear);
    }
    await atATime(USERS, work);

    const numbers = [...made.keys()].toSorted((a, b) => a - b);
    expect(numbers).toEqual(Array.from({ length: USERS * PROMPTS }, (_, i) => i + 1));
    const upTo = Math.max(...clears.map((it) => it.upTo));
    expect(await chats.findForMember(store, chat.id, owner.id)).toMatchObject({ lastSeq: numbers.length, clearedSeq: upTo });
    const left = (await messages.page(store, chat.id, undefined, 10_000)).map(({ seq, id }) => [seq, id]).reverse();
    expect(left).toEqual(numbers.filter((seq) => seq > upTo).map((seq) => [seq, made.get(seq)]));
    // Nobody's context reaches over a clear that came before.
    for (const { seq, earlier } of contexts) {
      const before = Math.max(0, ...clears.map((it) => it.upTo).filter((it) => it < seq));
      expect(earlier.filter((number) => number <= before || number >= seq)).toEqual([]);
    }
    // What a clear stopped is told by one clear, and its end is stored by nobody.
    const told = clears.flatMap(({ replies }) => replies.map(({ id }) => id));
    expect(new Set(told).size).toBe(told.length);
    const stopped = ends.filter(({ ended }) => !ended).map(({ seq }) => made.get(seq));
    expect(stopped.filter((id) => !told.includes(id as string))).toEqual([]);
    expect(clears.length).toBe(2 * PROMPTS);
  });
}
