import { eq, inArray } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { describe, expect, test } from "vitest";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as groups from "../../lib/repo/groups.ts";
import type { Store } from "../../lib/store/store.ts";
import { chatOf, groupOf, newClaim, type Person, people, said } from "./chatting.ts";
import { at } from "./people.ts";

/** Groups, their members, and what becomes of their chats. */
export function groupsSuite(current: () => Store): void {
  const roles = async (group: { id: string }) =>
    (await groups.members(current(), group.id)).map(({ id, role }) => ({ id, role }));
  const owner = ({ id }: Person) => ({ id, role: "owner" });
  const member = ({ id }: Person) => ({ id, role: "member" });
  const remove = (group: { id: string }, ...gone: Person[]) =>
    groups.removeMembers(
      current(),
      group.id,
      gone.map(({ id }) => id),
      at(9),
    );
  const changedAt = async (group: { id: string }, user: Person) =>
    (await groups.findForMember(current(), group.id, user.id))?.updatedAt;

  test("a group is kept as given, its maker owns it, and others do not see it", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const made = { id: uuidv7(), name: "Größe 🎉", description: "what 'we' \\ do", createdAt: at(1) };
    const group = await groups.create(store, made, anna.id);
    expect(group).toEqual({ ...made, updatedAt: at(1), role: "owner" });
    expect(await groups.findForMember(store, group.id, anna.id)).toEqual(group);
    expect(await groups.findForMember(store, group.id, ben.id)).toBeNull();
    expect(await groups.findForMember(store, uuidv7(), anna.id)).toBeNull();

    await groups.create(store, { ...made, name: "again" }, anna.id);
    expect(await groups.findForMember(store, group.id, anna.id)).toEqual(group);
    expect(await roles(group)).toEqual([owner(anna)]);
  });

  test("only an owner changes a group or deletes it", async () => {
    const store = current();
    const { anna, ben, carl } = await people(store, "anna", "ben", "carl");
    const group = await groupOf(store, anna, ben);
    for (const { id } of [ben, carl]) {
      expect(await groups.update(store, group.id, id, { name: "mine" }, at(2))).toBeNull();
      expect(await groups.remove(store, group.id, id)).toBe(false);
    }
    const changed = { ...group, description: "new", updatedAt: at(2) };
    expect(await groups.update(store, group.id, anna.id, { description: "new" }, at(2))).toEqual(changed);
    expect(await groups.findForMember(store, group.id, ben.id)).toEqual({ ...changed, role: "member" });
    expect(await groups.remove(store, group.id, anna.id)).toBe(true);
    expect(await groups.remove(store, group.id, anna.id)).toBe(false);
    expect(await groups.update(store, group.id, anna.id, { name: "late" }, at(3))).toBeNull();
  });

  test("who is added stays what they are, or becomes an owner; owners come first, then names", async () => {
    const store = current();
    const { anna, ben, carl } = await people(store, "anna", "ben", "carl");
    const group = await groupOf(store, ben);
    await groups.addMembers(store, group.id, [carl.id, anna.id], "member", at(1));
    expect(await roles(group)).toEqual([owner(ben), member(anna), member(carl)]);
    await groups.addMembers(store, group.id, [ben.id, anna.id], "member", at(2));
    expect(await roles(group)).toEqual([owner(ben), member(anna), member(carl)]);
    await groups.addMembers(store, group.id, [carl.id, anna.id], "owner", at(3));
    expect(await roles(group)).toEqual([owner(anna), owner(ben), owner(carl)]);
    expect(await changedAt(group, anna)).toEqual(at(3));
    const rows = await store.db.select().from(store.groupMembers).where(eq(store.groupMembers.groupId, group.id));
    expect(rows.map(({ createdAt }) => createdAt.getTime()).toSorted()).toEqual([0, 1, 1].map((ms) => at(ms).getTime()));
  });

  test("adding nobody, or to a group that is gone, adds nothing", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const group = await groupOf(store, anna);
    await groups.addMembers(store, group.id, [], "owner", at(1));
    expect(await roles(group)).toEqual([owner(anna)]);
    const gone = uuidv7();
    await groups.addMembers(store, gone, [anna.id], "member", at(1));
    expect(await roles({ id: gone })).toEqual([]);
  });

  test("my groups are listed oldest first, a page at a time, and nobody else's", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.push((await groupOf(store, i % 2 ? anna : ben, ...(i === 2 ? [anna] : []))).id);
    const hers = [ids[1], ids[2], ids[3]];
    const list = async (after?: string, limit = 100) =>
      (await groups.listForMember(store, anna.id, after, limit)).map(({ id, role }) => [id, role]);
    expect(await list()).toEqual([
      [hers[0], "owner"],
      [hers[1], "member"],
      [hers[2], "owner"],
    ]);
    expect((await list(undefined, 2)).map(([id]) => id)).toEqual(hers.slice(0, 2));
    expect((await list(hers[1], 2)).map(([id]) => id)).toEqual(hers.slice(2));
    expect(await list(hers[2])).toEqual([]);
  });

  describe("a member who is removed", () => {
    test("is out of the group and its chats, and chats of theirs are those of its longest owner", async () => {
      const store = current();
      const { anna, ben, carl, dora } = await people(store, "anna", "ben", "carl", "dora");
      const group = await groupOf(store, anna, dora);
      await groups.addMembers(store, group.id, [carl.id], "owner", at(2));
      await groups.addMembers(store, group.id, [ben.id], "owner", at(1));
      const [bens, annas] = [await chatOf(store, ben, { groupId: group.id }), await chatOf(store, anna, { groupId: group.id })];
      const elsewhere = await chatOf(store, ben);
      const shared = await chatOf(store, carl);
      await chats.addUsers(store, annas.id, [ben.id, dora.id], at(3));
      await chats.addUsers(store, shared.id, [ben.id], at(3));

      expect(await remove(group, ben)).toBe(true);
      expect(await roles(group)).toEqual([owner(anna), owner(carl), member(dora)]);
      const seen = async (chat: { id: string }, user: Person) => chats.findForMember(store, chat.id, user.id);
      expect(await seen(bens, ben)).toBeNull();
      expect(await seen(annas, ben)).toBeNull();
      expect(await seen(bens, dora)).toMatchObject({ ownerId: anna.id });
      // What is not the group's stays.
      expect(await seen(elsewhere, ben)).toMatchObject({ ownerId: ben.id });
      expect(await seen(shared, ben)).not.toBeNull();
      expect(await chats.users(store, annas.id)).toEqual([{ id: dora.id, username: dora.username }]);
      expect(await changedAt(group, anna)).toEqual(at(9));

      // The one who made the group goes: the owner who became one first is next.
      expect(await remove(group, anna)).toBe(true);
      expect(await seen(bens, dora)).toMatchObject({ ownerId: carl.id });
      expect(await seen(annas, dora)).toMatchObject({ ownerId: carl.id });
    });

    test("is removed once, however often that is asked", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const group = await groupOf(store, anna, ben);
      expect([await remove(group, ben), await remove(group, ben)]).toEqual([true, true]);
      expect(await roles(group)).toEqual([owner(anna)]);
    });

    test("may not be the last owner, and then nothing at all changes, for others named with them neither", async () => {
      const store = current();
      const { anna, ben, guest } = await people(store, "anna", "ben", "guest");
      const group = await groupOf(store, anna, ben);
      const [annas, bens] = [await chatOf(store, anna, { groupId: group.id }), await chatOf(store, ben, { groupId: group.id })];
      await chats.addUsers(store, annas.id, [ben.id, guest.id], at(1));
      const all = async () => ({
        roles: await roles(group),
        users: await chats.users(store, annas.id),
        owners: (
          await store.db
            .select()
            .from(store.chats)
            .where(inArray(store.chats.id, [annas.id, bens.id]))
        )
          .map(({ ownerId }) => ownerId)
          .toSorted(),
        changed: await changedAt(group, anna),
      });
      const before = await all();
      expect(before.users).toHaveLength(2);
      for (const gone of [[anna], [ben, anna], [anna, ben, guest]]) expect(await remove(group, ...gone)).toBe(false);
      expect(await all()).toEqual(before);
      await groups.addMembers(store, group.id, [ben.id], "owner", at(2));
      expect(await remove(group, anna, ben)).toBe(false);
      expect(await remove(group, anna)).toBe(true);
      expect(await roles(group)).toEqual([owner(ben)]);
    });

    test("who is not a member is left alone: they stay in a chat that they were added to", async () => {
      const store = current();
      const { anna, ben, guest } = await people(store, "anna", "ben", "guest");
      const group = await groupOf(store, anna, ben);
      const chat = await chatOf(store, anna, { groupId: group.id });
      await chats.addUsers(store, chat.id, [guest.id], at(1));
      expect(await remove(group, guest, ben)).toBe(true);
      expect(await chats.findForMember(store, chat.id, guest.id)).not.toBeNull();
      expect(await roles(group)).toEqual([owner(anna)]);
    });

    test("makes no chat in the group any more", async () => {
      const store = current();
      const { anna, ben } = await people(store, "anna", "ben");
      const group = await groupOf(store, anna, ben);
      const before = await chatOf(store, ben, { groupId: group.id });
      expect(before).toMatchObject({ groupId: group.id, shared: true });
      await remove(group, ben);
      await expect(chatOf(store, ben, { groupId: group.id })).rejects.toMatchObject({ code: "not_found" });
      await expect(chatOf(store, ben, { groupId: uuidv7() })).rejects.toMatchObject({ code: "not_found" });
      const rows = await store.db.select().from(store.chats).where(eq(store.chats.groupId, group.id));
      expect(rows.map(({ id }) => id)).toEqual([before.id]);
    });
  });

  test("with a group go its members, its chats, who was in them, and what was said in them; nothing else goes", async () => {
    const store = current();
    const { anna, ben, carl } = await people(store, "anna", "ben", "carl");
    const [group, other] = [await groupOf(store, anna, ben), await groupOf(store, anna, ben)];
    const [gone, kept] = [await chatOf(store, ben, { groupId: group.id }), await chatOf(store, ben, { groupId: other.id })];
    const alone = await chatOf(store, ben);
    for (const chat of [gone, kept, alone]) {
      await chats.addUsers(store, chat.id, [carl.id], at(1));
      await said(store, chat, ben);
    }
    expect(await groups.remove(store, group.id, anna.id)).toBe(true);
    const left = async (table: "chats" | "chatUsers" | "messages") => {
      const { id } = table === "chats" ? { id: store.chats.id } : { id: store[table].chatId };
      const rows = await store.db
        .select({ id })
        .from(store[table])
        .where(inArray(id, [gone.id, kept.id, alone.id]));
      return rows.map((row) => row.id).toSorted();
    };
    for (const table of ["chats", "chatUsers", "messages"] as const)
      expect(await left(table)).toEqual([kept.id, alone.id].toSorted());
    expect(await roles(group)).toEqual([]);
    expect(await roles(other)).toEqual([owner(anna), member(ben)]);
    expect(await claims.claim(store, newClaim(gone, ben))).toBeNull();
  });
}
