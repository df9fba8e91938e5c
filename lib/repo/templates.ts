import { and, asc, eq, gt, type SQL, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";

/** A saved prompt. */
export type Template = Store["templates"]["$inferSelect"];
export type NewTemplate = Omit<Template, "updatedAt">;
export type Change = { name?: string; text?: string; groupId?: string | null };

/**
 * Who sees a template: its owner, and the members of the group that it is shared with, while its owner is one of them. The one
 * place that says so: what somebody writes who has left reaches nobody any more.
 */
const visibleTo = ({ templates: t }: Store, userId: string): SQL =>
  sql`(${t.ownerId} = ${userId} or (exists (select 1 from group_members me where me.group_id = ${t.groupId} and me.user_id = ${userId})
    and exists (select 1 from group_members o where o.group_id = ${t.groupId} and o.user_id = ${t.ownerId})))`;

/** Saves a prompt. Repeating it changes nothing. */
export async function create({ db, templates }: Store, template: NewTemplate): Promise<Template> {
  const row = { ...template, updatedAt: template.createdAt };
  await db.insert(templates).values(row).onConflictDoNothing();
  return row;
}

/** A template, for somebody who sees it. Absent and not to be seen look the same on purpose. */
export async function findForMember(store: Store, id: string, userId: string): Promise<Template | null> {
  const { db, templates } = store;
  const [found] = await db
    .select()
    .from(templates)
    .where(and(eq(templates.id, id), visibleTo(store, userId)));
  return found ?? null;
}

export type Filter = { groupId?: string | undefined; after?: string | undefined; limit: number };

/** The templates that a user sees, of all or of one group, the oldest first, from the one after `after`; ids are UUIDv7. */
export async function listForMember(store: Store, userId: string, { groupId, after, limit }: Filter): Promise<Template[]> {
  const { db, templates } = store;
  const wanted = and(groupId ? eq(templates.groupId, groupId) : undefined, after ? gt(templates.id, after) : undefined);
  // Found by their owner and by group, so that no template is read that the user does not see.
  const among = sql`${templates.id} in (select t.id from ${templates} t where t.owner_id = ${userId} union select t.id
    from group_members gm join ${templates} t on t.group_id = gm.group_id where gm.user_id = ${userId})`;
  return db
    .select()
    .from(templates)
    .where(and(among, visibleTo(store, userId), wanted))
    .orderBy(asc(templates.id))
    .limit(limit);
}

/** Changes a template of its owner's; null when there is none. */
export async function update(
  { db, templates }: Store,
  id: string,
  ownerId: string,
  change: Change,
  at: Date,
): Promise<Template | null> {
  const theirs = and(eq(templates.id, id), eq(templates.ownerId, ownerId));
  const [changed] = await db
    .update(templates)
    .set({ ...change, updatedAt: at })
    .where(theirs)
    .returning();
  return changed ?? null;
}

/** Deletes a template of its owner's; false when there is none. */
export async function remove({ db, templates }: Store, id: string, ownerId: string): Promise<boolean> {
  const theirs = and(eq(templates.id, id), eq(templates.ownerId, ownerId));
  return (await db.delete(templates).where(theirs).returning({ id: templates.id })).length > 0;
}
