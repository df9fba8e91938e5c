import { and, asc, type Column, eq, exists, gt, inArray, notInArray, sql } from "drizzle-orm";
import { ApiError } from "../http/error.ts";
import { compiled, given, reading } from "../store/compiled.ts";
import type { Store } from "../store/store.ts";
import { valuesOf } from "../store/values.ts";
import { take } from "./chats.ts";

export type Role = "owner" | "member";
/** A group as one of its members sees it. */
export type GroupView = Store["groups"]["$inferSelect"] & { role: Role };
export type Member = { id: string; username: string; name: string | null; role: Role };
export type NewGroup = { id: string; name: string; description: string; createdAt: Date };

/** Makes a group, whose owner is the one who makes it. */
export async function create(store: Store, group: NewGroup, ownerId: string): Promise<GroupView> {
  const { groups, groupMembers } = store;
  const { id: groupId, createdAt } = group;
  const row = { ...group, updatedAt: createdAt };
  await store.atomic((q) => [
    q.insert(groups).values(row).onConflictDoNothing(),
    q.insert(groupMembers).values({ groupId, userId: ownerId, role: "owner", createdAt }).onConflictDoNothing(),
  ]);
  return { ...row, role: "owner" };
}

/** A group, for one of its members. Absent and not-a-member look the same on purpose. */
export async function findForMember(store: Store, groupId: string, userId: string): Promise<GroupView | null> {
  const [[found]] = await ofMember(store, { groupId, userId });
  return found ?? null;
}

const ofMember = compiled((store) => {
  const { db, groups, groupMembers } = store;
  const theirs = and(eq(groupMembers.groupId, groups.id), eq(groupMembers.userId, given("userId")));
  const query = db.select(columns(store)).from(groups).innerJoin(groupMembers, theirs);
  return [reading(columns(store), query.where(eq(groups.id, given("groupId"))))] as const;
});

/** The groups that a user is a member of, by id from the one after `after`; ids are UUIDv7, so the oldest come first. */
export async function listForMember(
  store: Store,
  userId: string,
  after: string | undefined,
  limit: number,
): Promise<GroupView[]> {
  const { db, groups, groupMembers } = store;
  return db
    .select(columns(store))
    .from(groupMembers)
    .innerJoin(groups, eq(groups.id, groupMembers.groupId))
    .where(and(eq(groupMembers.userId, userId), after ? gt(groups.id, after) : undefined))
    .orderBy(asc(groups.id))
    .limit(limit);
}

/** Changes a group of which the user is an owner; null when there is none. */
export async function update(
  store: Store,
  groupId: string,
  ownerId: string,
  change: { name?: string; description?: string },
  at: Date,
): Promise<GroupView | null> {
  const { db, groups } = store;
  const [changed] = await db
    .update(groups)
    .set({ ...change, updatedAt: at })
    .where(and(eq(groups.id, groupId), ownedBy(store, ownerId)))
    .returning();
  return changed ? { ...changed, role: "owner" } : null;
}

/** Deletes a group of which the user is an owner, with its chats; false when there is none. */
export async function remove(store: Store, groupId: string, ownerId: string): Promise<boolean> {
  const { groups, chats } = store;
  const mine = and(eq(groups.id, groupId), ownedBy(store, ownerId));
  const [, , gone] = await store.atomic((q) => [
    // It waits for what is being done in its chats before it stands in the way of that: members first, then each chat.
    q
      .update(groups)
      .set({ updatedAt: sql`${groups.updatedAt}` })
      .where(mine),
    take(q, store, and(eq(chats.groupId, groupId), exists(q.select({ id: groups.id }).from(groups).where(mine)))),
    q.delete(groups).where(mine).returning({ id: groups.id }),
  ]);
  return gone.length > 0;
}

/** The members of a group, owners first, then by username. */
export async function members({ db, groupMembers, users }: Store, groupId: string): Promise<Member[]> {
  const { id, username, name } = users;
  return db
    .select({ id, username, name, role: groupMembers.role })
    .from(groupMembers)
    .innerJoin(users, eq(users.id, groupMembers.userId))
    .where(eq(groupMembers.groupId, groupId))
    .orderBy(sql`${groupMembers.role} desc`, asc(username));
}

/**
 * Adds users to a group, where it is still there. Who is a member stays one; `owner` makes an owner of them too. Where it is
 * said who asks, throws `not_found` unless they are an owner still.
 */
export async function addMembers(
  store: Store,
  groupId: string,
  userIds: readonly string[],
  role: Role,
  at: Date,
  by?: string,
): Promise<void> {
  const { groups, groupMembers, users } = store;
  const target = [groupMembers.groupId, groupMembers.userId];
  const row = { groupId: sql`${groups.id}`, userId: sql`${users.id}`, role, createdAt: at };
  const theirs = and(eq(groups.id, groupId), by === undefined ? undefined : ownedBy(store, by));
  const rows = sql`select ${valuesOf(groupMembers, row)} from ${groups} join ${users} on ${inArray(users.id, [...userIds])}
    where ${theirs}`;
  const [taken] = await store.atomic((q) => {
    const insert = q.insert(groupMembers).select(rows as never);
    return [
      q.update(groups).set({ updatedAt: at }).where(theirs).returning({ id: groups.id }),
      role === "owner" ? insert.onConflictDoUpdate({ target, set: { role } }) : insert.onConflictDoNothing(),
    ] as const;
  });
  if (by !== undefined && taken.length === 0) throw new ApiError("not_found");
}

/**
 * Removes members of a group, from its chats too; chats of theirs in the group become those of its longest owner. False, and
 * nothing changes, where no owner would be left. Who is not a member is left alone. Where it is said who asks, throws
 * `not_found` unless they are an owner still, or remove themselves alone.
 */
export async function removeMembers(
  store: Store,
  groupId: string,
  userIds: readonly string[],
  at: Date,
  by?: string,
): Promise<boolean> {
  const { groups, groupMembers, chats, chatUsers, templates } = store;
  const gone = [...userIds];
  const goes = (userId: Column) =>
    and(
      inArray(userId, gone),
      sql`exists (select 1 from group_members m where m.group_id = ${groupId} and m.user_id = ${userId})`,
    );
  const staying = sql`from group_members o where o.group_id = ${groupId} and o.role = 'owner' and ${notInArray(sql`o.user_id`, gone)}`;
  const heir = sql`(select o.user_id ${staying} order by o.created_at, o.user_id limit 1)`;
  const leaving = by === undefined || gone.every((id) => id === by);
  const owner = sql`exists (select 1 from group_members b where b.group_id = ${groupId} and b.user_id = ${by} and b.role = 'owner')`;
  const mayAsk = leaving ? undefined : owner;
  const anotherOwner = and(sql`exists (select 1 ${staying})`, mayAsk);
  const ofGroup = eq(chats.groupId, groupId);
  const [taken, , , , , left] = await store.atomic((q) => [
    // Two owners who remove each other at the same time come one after the other.
    q
      .update(groups)
      .set({ updatedAt: sql`case when ${anotherOwner} then ${sql.param(at, groups.updatedAt)} else ${groups.updatedAt} end` })
      .where(and(eq(groups.id, groupId), mayAsk))
      .returning({ id: groups.id }),
    // Chats before their users, as where a chat is deleted; members last, because it is their membership that the rest goes by.
    q
      .update(chats)
      .set({ ownerId: heir as never })
      .where(and(ofGroup, goes(chats.ownerId), anotherOwner)),
    q
      .update(templates)
      .set({ ownerId: heir as never })
      .where(and(eq(templates.groupId, groupId), goes(templates.ownerId), anotherOwner)),
    q
      .delete(chatUsers)
      .where(
        and(
          inArray(chatUsers.chatId, q.select({ id: chats.id }).from(chats).where(ofGroup)),
          goes(chatUsers.userId),
          anotherOwner,
        ),
      ),
    q.delete(groupMembers).where(and(eq(groupMembers.groupId, groupId), inArray(groupMembers.userId, gone), anotherOwner)),
    q
      .select({ userId: groupMembers.userId })
      .from(groupMembers)
      .where(and(eq(groupMembers.groupId, groupId), inArray(groupMembers.userId, gone))),
  ]);
  if (by !== undefined && taken.length === 0) throw new ApiError("not_found");
  return left.length === 0;
}

const columns = ({ groups: g, groupMembers }: Store) => ({
  id: g.id,
  name: g.name,
  description: g.description,
  createdAt: g.createdAt,
  updatedAt: g.updatedAt,
  role: groupMembers.role,
});

const ownedBy = ({ groups, groupMembers }: Store, userId: string) =>
  sql`exists (select 1 from ${groupMembers} m where m.group_id = ${groups.id} and m.user_id = ${userId} and m.role = 'owner')`;
