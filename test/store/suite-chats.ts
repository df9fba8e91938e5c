import { eq } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { beforeAll, describe, expect, test } from "vitest";
import * as chatList from "../../lib/repo/chat-list.ts";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as groups from "../../lib/repo/groups.ts";
import * as messages from "../../lib/repo/messages.ts";
import type { Store } from "../../lib/store/store.ts";
import { changedAt, chatOf, claimed, groupOf, newChat, newClaim, type Person, people, said } from "./chatting.ts";
import { at } from "./people.ts";

/** Chats: who sees them, who takes part, and how they are listed. */
export function chatsSuite(current: () => Store): void {
  describe("a chat", () => {
    test("is kept as given, once", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const made = newChat(anna, { name: 'naïve 🎉 "it\'s" \\', model: "gpt-4o-mini", createdAt: at(7) });
      const chat = await chats.create(store, made);
      const unsaid = { key: null, systemPrompt: null, lastSeq: 0, clearedSeq: null };
      expect(chat).toEqual({ ...made, ...unsaid, updatedAt: at(7), shared: false });
      expect(await chats.findForMember(store, chat.id, anna.id)).toEqual(chat);
      await chats.create(store, { ...made, name: "again" });
      expect(await chats.findForMember(store, chat.id, anna.id)).toEqual(chat);
    });

    test("is kept with the key that its owner chose for it", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chats.create(store, newChat(anna, { key: "naïve-key.1" }));
      expect(chat).toMatchObject({ key: "naïve-key.1", clearedSeq: null });
      expect(await chats.findForMember(store, chat.id, anna.id)).toEqual(chat);
      expect((await claimed(store, newClaim(chat, anna))).chat).toEqual({ ...chat, lastSeq: 1 });
      const [listed] = await chatList.listForMember(store, anna.id, { limit: 9 });
      expect(listed).toMatchObject({ id: chat.id, key: "naïve-key.1" });
    });

    test("of a group is kept as given, once", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const made = newChat(anna, { groupId: (await groupOf(store, anna)).id });
      const chat = await chats.create(store, made);
      const unsaid = { key: null, systemPrompt: null, lastSeq: 0, clearedSeq: null };
      expect(chat).toEqual({ ...made, ...unsaid, updatedAt: at(), shared: true });
      expect(await chats.create(store, made)).toEqual(chat);
      expect(await chats.findForMember(store, chat.id, anna.id)).toEqual(chat);
    });

    test("is changed and deleted by its owner only", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const chat = await chatOf(store, anna);
      await chats.addUsers(store, chat.id, [ben.id], at(1));
      expect(await chats.update(store, chat.id, ben.id, { name: "mine" }, at(2))).toBeNull();
      expect(await chats.remove(store, chat.id, ben.id)).toBeNull();
      const changed = { ...chat, name: "new", updatedAt: at(2), shared: true };
      expect(await chats.update(store, chat.id, anna.id, { name: "new" }, at(2))).toEqual(changed);
      expect(await chats.findForMember(store, chat.id, ben.id)).toEqual(changed);
      await said(store, chat, ben);
      expect(await chats.remove(store, chat.id, anna.id)).toEqual([]);
      expect(await chats.remove(store, chat.id, anna.id)).toBeNull();
      for (const table of [store.messages, store.chatUsers])
        expect(await store.db.select().from(table).where(eq(table.chatId, chat.id))).toEqual([]);
    });

    test("never seems to have changed earlier than it did", async () => {
      const store = current();
      const { anna } = await people(store, "anna");
      const chat = await chatOf(store, anna, { createdAt: at(100) });
      await chats.update(store, chat.id, anna.id, { name: "slow" }, at(50));
      expect(await changedAt(store, chat)).toEqual(at(100));
      const [first, second] = [newClaim(chat, anna, { at: at(200) }), newClaim(chat, anna, { at: at(150) })];
      await claimed(store, first);
      await claimed(store, second);
      expect(await changedAt(store, chat)).toEqual(at(200));
    });
  });

  describe("who takes part", () => {
    test("is the owner, then by name those who were added and the members of the group, each once", async () => {
      const store = current();
      const { anna, ben, carl, dora } = await people(store, "anna", "ben", "carl", "dora");
      const group = await groupOf(store, anna, carl, ben);
      const chat = await chatOf(store, carl, { groupId: group.id });
      await chats.addUsers(store, chat.id, [dora.id, ben.id], at(1));
      await chats.addUsers(store, chat.id, [ben.id, dora.id], at(2));
      const view = ({ id, username, name }: typeof anna, role: string) => ({ id, username, name, role });
      expect(await chats.participants(store, chat.id)).toEqual([
        view(carl, "owner"),
        view(anna, "member"),
        view(ben, "member"),
        view(dora, "member"),
      ]);
      const added = (await chats.users(store, chat.id)).map(({ id }) => id);
      expect(added.toSorted()).toEqual([ben.id, dora.id].toSorted());
      expect(await chats.participants(store, uuidv7())).toEqual([]);
    });

    test("adding nobody, or to a chat that is gone, adds nothing; removing says who was there", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const chat = await chatOf(store, anna);
      await chats.addUsers(store, chat.id, [], at(1));
      await chats.addUsers(store, uuidv7(), [ben.id], at(1));
      expect(await chats.users(store, chat.id)).toEqual([]);
      await chats.addUsers(store, chat.id, [ben.id], at(1));
      expect(await chats.removeUsers(store, chat.id, [anna.id, ben.id, uuidv7()])).toEqual([ben.id]);
      expect(await chats.removeUsers(store, chat.id, [ben.id])).toEqual([]);
      expect(await chats.removeUsers(store, chat.id, [])).toEqual([]);
    });

    test("is told with the chat: it is shared with a group, or with anybody that was added", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const [chat, ofGroup] = [
        await chatOf(store, anna),
        await chatOf(store, anna, { groupId: (await groupOf(store, anna)).id }),
      ];
      const shared = async ({ id }: { id: string }) => [
        (await chats.findForMember(store, id, anna.id))?.shared,
        (await chatList.listForMember(store, anna.id, { limit: 9 })).find((it) => it.id === id)?.shared,
        (await claimed(store, newClaim({ id }, anna))).chat.shared,
        (await chats.update(store, id, anna.id, { name: "n" }, at(1)))?.shared,
      ];
      expect(await shared(chat)).toEqual([false, false, false, false]);
      expect(await shared(ofGroup)).toEqual([true, true, true, true]);
      await chats.addUsers(store, chat.id, [ben.id], at(1));
      expect(await shared(chat)).toEqual([true, true, true, true]);
      await chats.removeUsers(store, chat.id, [ben.id]);
      expect(await shared(chat)).toEqual([false, false, false, false]);
    });
  });

  test("who sees a chat, and who does not any more: every way to it says the same", async () => {
    const store = current();
    const { owner, user, member, both, stranger } = await people(store, "owner", "user", "member", "both", "stranger");
    const group = await groupOf(store, owner, member, both);
    const elsewhere = await groupOf(store, stranger, user);
    const own = await chatOf(store, owner);
    const ofGroup = await chatOf(store, owner, { groupId: group.id });
    await chatOf(store, stranger, { groupId: elsewhere.id });
    for (const { id } of [own, ofGroup]) await chats.addUsers(store, id, [user.id, both.id], at(1));
    const everyone = { owner, user, member, both, stranger };
    const message = new Map<string, string>();
    for (const chat of [own, ofGroup]) message.set(chat.id, (await said(store, chat, owner)).id);

    /** The names of those who see a chat, each way. */
    const seers = async (chat: chats.ChatView) => {
      const pairs = Object.values(everyone).map(({ id: userId }) => ({ chatId: chat.id, userId }));
      const among = new Set((await chats.visibleAmong(store, pairs)).map(({ userId }) => userId));
      const ways: ((user: Person) => Promise<boolean>)[] = [
        async ({ id }) => (await chats.findForMember(store, chat.id, id)) !== null,
        async ({ id }) => (await chatList.listForMember(store, id, { limit: 100 })).some((it) => it.id === chat.id),
        async ({ id }) => (await messages.chatOf(store, message.get(chat.id) ?? "", id)) === chat.id,
        async (user) => (await claims.claim(store, newClaim(chat, user))) !== null,
        async ({ id }) => among.has(id),
        async ({ id }) => (await chats.participants(store, chat.id)).some((it) => it.id === id),
      ];
      const found = ways.map(async (sees) => {
        const names = Object.entries(everyone).map(async ([name, user]) => ((await sees(user)) ? [name] : []));
        return (await Promise.all(names)).flat();
      });
      const [first, ...others] = await Promise.all(found);
      for (const other of others) expect(other).toEqual(first);
      return first;
    };

    expect(await seers(own)).toEqual(["owner", "user", "both"]);
    expect(await seers(ofGroup)).toEqual(["owner", "user", "member", "both"]);
    await chats.removeUsers(store, own.id, [user.id]);
    await chats.removeUsers(store, ofGroup.id, [user.id, both.id]);
    expect(await seers(own)).toEqual(["owner", "both"]);
    expect(await seers(ofGroup)).toEqual(["owner", "member", "both"]);
    await groups.removeMembers(store, group.id, [member.id, both.id], at(2));
    expect(await seers(own)).toEqual(["owner", "both"]);
    expect(await seers(ofGroup)).toEqual(["owner"]);
  });

  test("of many pairs those are answered where the user sees the chat, each once, and no other pair", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const [annas, bens] = [await chatOf(store, anna), await chatOf(store, ben)];
    await said(store, annas, anna, { at: at(5) });
    const pair = (chat: { id: string }, user: Person) => ({ chatId: chat.id, userId: user.id });
    await messages.clear(store, annas.id, anna.id, at(6));
    await said(store, annas, anna, { at: at(7) });
    const hers = { ...pair(annas, anna), lastSeq: 2, clearedSeq: 1 };
    // Both see a chat, though not the one that is asked.
    expect(await chats.visibleAmong(store, [pair(annas, ben), pair(bens, anna)])).toEqual([]);
    const asked = [pair(annas, anna), pair(annas, ben), pair(annas, anna), pair({ id: uuidv7() }, anna)];
    expect(await chats.visibleAmong(store, asked)).toEqual([hers]);
    expect(await chats.visibleAmong(store, [])).toEqual([]);

    const strangers = Array.from({ length: 11_000 }, () => pair({ id: uuidv7() }, { id: uuidv7(), username: "" }));
    const many = await chats.visibleAmong(store, [pair(annas, anna), ...strangers, pair(bens, ben)]);
    expect(many).toEqual([hers, { ...pair(bens, ben), lastSeq: 0, clearedSeq: null }]);
  });

  describe("the list", () => listSuite(current));
}

function listSuite(current: () => Store): void {
  let anna: Person;
  let ben: Person;
  let group: { id: string };
  /** From the oldest; the second and third changed at the same instant. */
  let made: chats.ChatView[];
  beforeAll(async () => {
    const store = current();
    ({ anna, ben } = await people(store, "anna", "ben"));
    group = await groupOf(store, ben, anna);
    const mine = async (ms: number, change: Partial<chats.NewChat> = {}) => chatOf(store, anna, { createdAt: at(ms), ...change });
    made = [
      await mine(0),
      await mine(10),
      await mine(10, { groupId: group.id }),
      await chatOf(store, ben, { createdAt: at(20), groupId: group.id }),
      await chatOf(store, ben, { createdAt: at(30) }),
    ];
    await chats.addUsers(store, made[4]?.id ?? "", [anna.id], at(40));
    await chatOf(store, ben, { createdAt: at(50) });
  });
  const list = (filter: Partial<chatList.ChatFilter> = {}, user = anna) =>
    chatList.listForMember(current(), user.id, { limit: 100, ...filter });
  const places = (listed: chatList.ListedChat[]) => listed.map(({ id }) => made.findIndex((chat) => chat.id === id));

  test("has what I see and nothing else, the last changed first; of two at the same instant the later made", async () => {
    expect(places(await list())).toEqual([4, 3, 2, 1, 0]);
    expect(places(await list({ limit: 2 }))).toEqual([4, 3]);
    expect(await list({}, { id: uuidv7(), username: "" })).toEqual([]);
  });

  test("goes on from any place of it, also between two that changed at the same instant", async () => {
    for (let from = 0; from < made.length; from++) {
      const cursor = made[from] as chats.ChatView;
      expect(places(await list({ cursor }))).toEqual([4, 3, 2, 1, 0].filter((place) => place < from));
    }
    const all: number[] = [];
    for (let cursor: chatList.ListedChat | undefined; ; ) {
      const [next] = await list({ limit: 1, ...(cursor && { cursor }) });
      if (!next) break;
      all.push(...places([next]));
      cursor = next;
    }
    expect(all).toEqual([4, 3, 2, 1, 0]);
  });

  test("is narrowed to a group, to what changed after an instant, and to both behind a place", async () => {
    expect(places(await list({ groupId: group.id }))).toEqual([3, 2]);
    expect(places(await list({ groupId: uuidv7() }))).toEqual([]);
    expect(places(await list({ after: at(10) }))).toEqual([4, 3]);
    expect(places(await list({ after: at(9) }))).toEqual([4, 3, 2, 1]);
    expect(places(await list({ after: at(9), groupId: group.id, cursor: made[3] }))).toEqual([2]);
    const outsider = await people(current(), "outsider");
    expect(await list({ groupId: group.id }, outsider.outsider)).toEqual([]);
  });

  test("tells the newest message of each, and how many came after an instant from others", async () => {
    const store = current();
    const { owner, other } = await people(store, "owner", "other");
    const chat = await chatOf(store, owner);
    await chats.addUsers(store, chat.id, [other.id], at());
    const show = async (after?: Date, user = owner) => {
      const [first] = await list(after ? { after } : {}, user);
      return [first?.lastMessage?.prompt ?? null, first?.unread];
    };
    expect(await show()).toEqual([null, null]);
    expect(await show(at(-1))).toEqual([null, 0]);
    for (const [prompt, user, ms] of [
      ["one", other, 1],
      ["two", owner, 2],
      ["three", other, 3],
    ] as const)
      await said(store, chat, user, { prompt, at: at(ms) });
    const gone = await said(store, chat, other, { prompt: "gone", at: at(4), offTheRecord: true });
    expect(await show(at())).toEqual(["gone", 3]);
    await messages.remove(store, gone, other.id);
    expect(await show(at())).toEqual(["three", 2]);
    expect(await show(at(1))).toEqual(["three", 1]);
    expect(await show(at(3))).toEqual(["three", 0]);
    expect(await show(at(), other)).toEqual(["three", 1]);
    const [listed] = await list({}, owner);
    expect(listed?.lastMessage).toEqual((await messages.page(store, chat.id, undefined, 1))[0]);
    expect(listed?.lastMessage).toMatchObject({ username: other.username, seq: 3, reply: "Hello yourself" });
  });

  test("counts a thousand unread at most", async () => {
    const store = current();
    const { owner, other } = await people(store, "owner", "other");
    const chat = await chatOf(store, owner);
    const { at: createdAt, contextPairs: _, offTheRecord: __, ...claim } = newClaim(chat, other);
    const rows = Array.from({ length: 1_100 }, (_, i) => ({
      ...{ ...claim, id: uuidv7(), model: "gpt-4o", reply: "", state: "done" as const, createdAt, updatedAt: createdAt },
      seq: i + 1,
    }));
    for (let from = 0; from < rows.length; from += 100)
      await store.db.insert(store.messages).values(rows.slice(from, from + 100));
    await store.db.update(store.chats).set({ lastSeq: 1_100, updatedAt: at() }).where(eq(store.chats.id, chat.id));
    expect((await list({ after: at(-1) }, owner)).map(({ unread }) => unread)).toEqual([1_000]);
  });
}
