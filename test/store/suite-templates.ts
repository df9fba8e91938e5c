import { and, eq } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { describe, expect, test } from "vitest";
import * as groups from "../../lib/repo/groups.ts";
import * as templates from "../../lib/repo/templates.ts";
import type { Store } from "../../lib/store/store.ts";
import { groupOf, type Person, people } from "./chatting.ts";
import { at } from "./people.ts";

const newTemplate = (owner: Person, change: Partial<templates.NewTemplate> = {}): templates.NewTemplate => ({
  id: uuidv7(),
  ownerId: owner.id,
  groupId: null,
  name: "A template",
  text: "Say {{what}}.",
  createdAt: at(),
  ...change,
});

/** Templates: who sees them, who changes them, and what becomes of those of a group. */
export function templatesSuite(current: () => Store): void {
  const templateOf = (owner: Person, change: Partial<templates.NewTemplate> = {}) =>
    templates.create(current(), newTemplate(owner, change));
  const list = async (user: Person, filter: Partial<templates.Filter> = {}) =>
    (await templates.listForMember(current(), user.id, { limit: 100, ...filter })).map(({ id }) => id);
  const leave = (group: { id: string }, ...gone: Person[]) =>
    groups.removeMembers(
      current(),
      group.id,
      gone.map(({ id }) => id),
      at(9),
    );
  /** Which of these people see a template; found and listed must be the same. */
  const seers = async ({ id }: { id: string }, everyone: Record<string, Person>) => {
    const names: string[] = [];
    for (const [name, user] of Object.entries(everyone)) {
      const found = (await templates.findForMember(current(), id, user.id)) !== null;
      expect([name, (await list(user)).includes(id)]).toEqual([name, found]);
      if (found) names.push(name);
    }
    return names;
  };

  test("a template is kept as given, once", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const made = newTemplate(anna, { name: "Größe 🎉", text: "  {{a}} 'it\"s' \\ \n日本 ".repeat(4_000), createdAt: at(3) });
    const template = await templates.create(store, made);
    expect(template).toEqual({ ...made, updatedAt: at(3) });
    await templates.create(store, { ...made, name: "again" });
    expect(await templates.findForMember(store, made.id, anna.id)).toEqual(template);
    expect(await templates.listForMember(store, anna.id, { limit: 9 })).toEqual([template]);
  });

  test("its owner alone sees one that is nobody else's, and one of a group all of that group", async () => {
    const { owner, member, stranger } = await people(current(), "owner", "member", "stranger");
    const group = await groupOf(current(), owner, member);
    await groupOf(current(), stranger, member, owner);
    const everyone = { owner, member, stranger };
    const [own, shared] = [await templateOf(owner), await templateOf(owner, { groupId: group.id })];
    expect(await seers(own, everyone)).toEqual(["owner"]);
    expect(await seers(shared, everyone)).toEqual(["owner", "member"]);
    await leave(group, member);
    expect(await seers(shared, everyone)).toEqual(["owner"]);
    await groups.addMembers(current(), group.id, [stranger.id], "member", at(5));
    expect(await seers(shared, everyone)).toEqual(["owner", "stranger"]);
  });

  test("only its owner changes it or deletes it, not the group's owner and not its members", async () => {
    const store = current();
    const { boss, owner, member, stranger } = await people(store, "boss", "owner", "member", "stranger");
    const group = await groupOf(store, boss, owner, member);
    const template = await templateOf(owner, { groupId: group.id });
    for (const { id } of [boss, member, stranger]) {
      expect(await templates.update(store, template.id, id, { text: "mine", groupId: null }, at(2))).toBeNull();
      expect(await templates.remove(store, template.id, id)).toBe(false);
    }
    expect(await templates.findForMember(store, template.id, member.id)).toEqual(template);
    const renamed = { ...template, name: "new", updatedAt: at(2) };
    expect(await templates.update(store, template.id, owner.id, { name: "new" }, at(2))).toEqual(renamed);
    const reworded = { ...renamed, text: "{{other}}", updatedAt: at(3) };
    expect(await templates.update(store, template.id, owner.id, { text: "{{other}}" }, at(3))).toEqual(reworded);
    expect(await templates.findForMember(store, template.id, member.id)).toEqual(reworded);
    expect(await templates.remove(store, template.id, owner.id)).toBe(true);
    expect(await templates.remove(store, template.id, owner.id)).toBe(false);
    expect(await templates.update(store, template.id, owner.id, { name: "late" }, at(4))).toBeNull();
    expect(await templates.findForMember(store, template.id, owner.id)).toBeNull();
  });

  test("it is shared with a group, with another, and with nobody any more", async () => {
    const store = current();
    const { owner, one, two } = await people(store, "owner", "one", "two");
    const [ones, twos] = [await groupOf(store, owner, one), await groupOf(store, owner, two)];
    const template = await templateOf(owner);
    const everyone = { owner, one, two };
    const share = (groupId: string | null) => templates.update(store, template.id, owner.id, { groupId }, at(2));
    expect(await share(ones.id)).toMatchObject({ groupId: ones.id });
    expect(await seers(template, everyone)).toEqual(["owner", "one"]);
    await share(twos.id);
    expect(await seers(template, everyone)).toEqual(["owner", "two"]);
    expect(await share(null)).toMatchObject({ groupId: null });
    expect(await seers(template, everyone)).toEqual(["owner"]);
  });

  describe("an owner who leaves the group", () => {
    test("leaves its templates to the group's longest owner, and keeps their own", async () => {
      const store = current();
      const { first, second, owner, member } = await people(store, "first", "second", "owner", "member");
      const group = await groupOf(store, first, owner, member);
      await groups.addMembers(store, group.id, [second.id], "owner", at(2));
      const other = await groupOf(store, owner, member);
      const shared = await templateOf(owner, { groupId: group.id, text: "as it was" });
      const [own, elsewhere] = [await templateOf(owner), await templateOf(owner, { groupId: other.id })];
      const members = await templateOf(member, { groupId: group.id });
      const everyone = { first, second, owner, member };

      expect(await leave(group, owner)).toBe(true);
      expect(await seers(shared, everyone)).toEqual(["first", "second", "member"]);
      expect(await templates.findForMember(store, shared.id, member.id)).toEqual({ ...shared, ownerId: first.id });
      expect(await templates.update(store, shared.id, owner.id, { text: "changed" }, at(10))).toBeNull();
      expect(await templates.remove(store, shared.id, owner.id)).toBe(false);
      expect(await templates.update(store, shared.id, first.id, { name: "taken over" }, at(10))).toMatchObject({
        text: "as it was",
      });
      expect(await seers(own, everyone)).toEqual(["owner"]);
      expect(await seers(elsewhere, everyone)).toEqual(["owner", "member"]);
      expect(await templates.findForMember(store, members.id, second.id)).toEqual(members);

      // Who took it over leaves, too.
      expect(await leave(group, first)).toBe(true);
      expect(await templates.findForMember(store, shared.id, member.id)).toMatchObject({ ownerId: second.id });
    });

    test("keeps them where the group would be left without an owner, for then nobody leaves", async () => {
      const store = current();
      const { boss, owner } = await people(store, "boss", "owner");
      const group = await groupOf(store, boss, owner);
      const [bosses, owners] = [await templateOf(boss, { groupId: group.id }), await templateOf(owner, { groupId: group.id })];
      expect(await leave(group, boss, owner)).toBe(false);
      expect(await templates.findForMember(store, bosses.id, owner.id)).toEqual(bosses);
      expect(await templates.findForMember(store, owners.id, boss.id)).toEqual(owners);
    });

    test("who is not a member is left alone: what they share with it stays theirs, and reaches nobody of it", async () => {
      const store = current();
      const { boss, outsider, member } = await people(store, "boss", "outsider", "member");
      const group = await groupOf(store, boss, member);
      const shared = await templateOf(outsider, { groupId: group.id });
      expect(await leave(group, outsider, member)).toBe(true);
      expect(await templates.findForMember(store, shared.id, outsider.id)).toEqual(shared);
      expect(await seers(shared, { boss, outsider, member })).toEqual(["outsider"]);
    });

    test("is gone in whatever way: nobody of the group sees what they write, and they do", async () => {
      const store = current();
      const { boss, owner, member } = await people(store, "boss", "owner", "member");
      const group = await groupOf(store, boss, owner, member);
      const shared = await templateOf(owner, { groupId: group.id });
      const { groupMembers } = store;
      await store.db.delete(groupMembers).where(and(eq(groupMembers.groupId, group.id), eq(groupMembers.userId, owner.id)));
      expect(await seers(shared, { boss, owner, member })).toEqual(["owner"]);
      expect([await list(boss, { groupId: group.id }), await list(owner, { groupId: group.id })]).toEqual([[], [shared.id]]);
      await groups.addMembers(store, group.id, [owner.id], "member", at(5));
      expect(await seers(shared, { boss, owner, member })).toEqual(["boss", "owner", "member"]);
    });
  });

  test("one whose group is deleted is its owner's alone", async () => {
    const store = current();
    const { boss, owner, member } = await people(store, "boss", "owner", "member");
    const group = await groupOf(store, boss, owner, member);
    const shared = await templateOf(owner, { groupId: group.id });
    expect(await groups.remove(store, group.id, boss.id)).toBe(true);
    expect(await seers(shared, { boss, owner, member })).toEqual(["owner"]);
    expect(await templates.findForMember(store, shared.id, owner.id)).toEqual({ ...shared, groupId: null });
  });

  test("those that I see are listed oldest first, a page at a time, of all or of one group, each once", async () => {
    const store = current();
    const { anna, ben, carl } = await people(store, "anna", "ben", "carl");
    const [group, other] = [await groupOf(store, anna, ben), await groupOf(store, ben, anna, carl)];
    const made: string[] = [];
    for (const [owner, groupId] of [
      [anna, null],
      [anna, group.id],
      [ben, group.id],
      [ben, null],
      [carl, other.id],
      [anna, other.id],
    ] as const)
      made.push((await templateOf(owner, { groupId })).id);
    const places = (ids: string[]) => ids.map((id) => made.indexOf(id));
    expect(places(await list(anna))).toEqual([0, 1, 2, 4, 5]);
    expect(places(await list(ben))).toEqual([1, 2, 3, 4, 5]);
    expect(places(await list(carl))).toEqual([4, 5]);
    expect(places(await list(anna, { groupId: group.id }))).toEqual([1, 2]);
    expect(places(await list(anna, { groupId: other.id }))).toEqual([4, 5]);
    expect(places(await list(carl, { groupId: group.id }))).toEqual([]);
    expect(places(await list(anna, { groupId: uuidv7() }))).toEqual([]);
    expect(places(await list({ id: uuidv7(), username: "" }))).toEqual([]);

    expect(places(await list(anna, { limit: 2 }))).toEqual([0, 1]);
    expect(places(await list(anna, { after: made[1], limit: 2 }))).toEqual([2, 4]);
    expect(places(await list(anna, { after: made[4], limit: 2 }))).toEqual([5]);
    expect(places(await list(anna, { after: made[5], limit: 2 }))).toEqual([]);
    // Also from behind one that they do not see.
    expect(places(await list(anna, { after: made[3] }))).toEqual([4, 5]);
    expect(places(await list(anna, { groupId: other.id, after: made[4], limit: 2 }))).toEqual([5]);
  });
}
