import { and, asc, eq, inArray, or, type SQL, sql } from "drizzle-orm";
import { ApiError } from "../http/error.ts";
import { compiled, given, reading } from "../store/compiled.ts";
import type { Store } from "../store/store.ts";
import { valuesOf } from "../store/values.ts";
import type { Running } from "./messages.ts";

/** A chat as those see it who may. `shared`: others than its owner take part. */
export type ChatView = Store["chats"]["$inferSelect"] & { shared: boolean };
export type NewChat = Pick<ChatView, "id" | "ownerId" | "groupId" | "name" | "model" | "createdAt"> & { key?: string };
export type Participant = { id: string; username: string; name: string | null; role: "owner" | "member" };

/**
 * Who sees a chat: its owner, its users, and the members of its group. The one place that says so. It looks for one row by its
 * key; `exists` lets Postgres read a whole table into a hash instead, where it expects to ask often.
 */
export const visibleTo = ({ chats }: Store, userId: SQL | string) =>
  sql`(${chats.ownerId} = ${userId}
    or (select 1 from chat_users cu where cu.chat_id = ${chats.id} and cu.user_id = ${userId}) is not null
    or (select 1 from group_members gm where gm.group_id = ${chats.groupId} and gm.user_id = ${userId}) is not null)`;

/** Makes a chat. Throws `not_found` where its owner is not a member of its group. */
export async function create(store: Store, chat: NewChat): Promise<ChatView> {
  const { db, chats, groups } = store;
  const { id, groupId, ownerId } = chat;
  const row = { key: null, ...chat, systemPrompt: null, lastSeq: 0, clearedSeq: null, updatedAt: chat.createdAt };
  if (groupId === null) {
    await db.insert(chats).values(row).onConflictDoNothing();
    return { ...row, shared: false };
  }
  const member = sql`exists (select 1 from group_members gm where gm.group_id = ${groupId} and gm.user_id = ${ownerId})`;
  const [, , made] = await store.atomic((q) => [
    // It takes the group, as a removal of members does: a chat is made before it, and is handed over, or not at all.
    q
      .update(groups)
      .set({ updatedAt: sql`${groups.updatedAt}` })
      .where(eq(groups.id, groupId)),
    q
      .insert(chats)
      .select(sql`select ${valuesOf(chats, row)} where ${member}` as never)
      .onConflictDoNothing(),
    q.select({ id: chats.id }).from(chats).where(eq(chats.id, id)),
  ]);
  if (made.length === 0) throw new ApiError("not_found");
  return { ...row, shared: true };
}

/** Makes somebody's own chat with a key; false where it is there already. */
export async function createNamed({ db, chats }: Store, chat: Omit<NewChat, "groupId">): Promise<boolean> {
  const row = { groupId: null, key: null, ...chat, systemPrompt: null, lastSeq: 0, clearedSeq: null, updatedAt: chat.createdAt };
  const made = await db.insert(chats).values(row).onConflictDoNothing().returning({ id: chats.id });
  return made.length > 0;
}

/** A chat, for somebody who sees it. Absent and not to be seen look the same on purpose. */
export async function findForMember(store: Store, chatId: string, userId: string): Promise<ChatView | null> {
  const [[found]] = await seenBy(store, { chatId, userId });
  return found ?? null;
}

const seenBy = compiled((store) => {
  const isIt = and(eq(store.chats.id, given("chatId")), visibleTo(store, given("userId")));
  return [reading(columns(store), store.db.select(columns(store)).from(store.chats).where(isIt))] as const;
});

/** Changes a chat of its owner's; null when there is none. */
export async function update(
  store: Store,
  chatId: string,
  ownerId: string,
  change: { name?: string; model?: string; systemPrompt?: string | null },
  at: Date,
): Promise<ChatView | null> {
  const { db, chats } = store;
  const [changed] = await db
    .update(chats)
    .set({ ...change, updatedAt: notBefore(store, at) })
    .where(and(eq(chats.id, chatId), eq(chats.ownerId, ownerId)))
    .returning(columns(store));
  return changed ?? null;
}

/**
 * Deletes a chat of its owner's with its messages, and answers the replies that were being made; null when there is none. It has
 * the chat alone: a prompt comes before it, and is among those, or after it, and finds no chat.
 */
export async function remove(store: Store, chatId: string, ownerId: string): Promise<Running[] | null> {
  const { chats, messages } = store;
  const theirs = and(eq(chats.id, chatId), eq(chats.ownerId, ownerId));
  const [, running, gone] = await store.atomic((q) => [
    take(q, store, theirs),
    q
      .select({ id: messages.id, requestId: messages.requestId })
      .from(messages)
      .where(and(eq(messages.chatId, chatId), sql`state = 'streaming'`)),
    q.delete(chats).where(theirs).returning({ id: chats.id }),
  ]);
  return gone.length > 0 ? running : null;
}

/** Everyone who sees a chat, its owner first, then by username; `MOST_PARTICIPANTS` of them. */
export async function participants(store: Store, chatId: string): Promise<Participant[]> {
  const { db, users } = store;
  const { id, username, name } = users;
  const owns = sql`exists (select 1 from chats c where c.id = ${chatId} and c.owner_id = ${id})`;
  return db
    .select({ id, username, name, role: sql<"owner" | "member">`case when ${owns} then 'owner' else 'member' end` })
    .from(users)
    .where(
      sql`${id} in (select c.owner_id from chats c where c.id = ${chatId} union select cu.user_id from chat_users cu
        where cu.chat_id = ${chatId} union select g.user_id from chats c join group_members g on g.group_id = c.group_id
        where c.id = ${chatId})`,
    )
    .orderBy(sql`case when ${owns} then 0 else 1 end`, asc(username))
    .limit(MOST_PARTICIPANTS);
}
const MOST_PARTICIPANTS = 1_000;

/** The users that were added to a chat; not its owner, and not the members of its group. */
export async function users({ db, users, chatUsers }: Store, chatId: string): Promise<{ id: string; username: string }[]> {
  const { id, username } = users;
  return db
    .select({ id, username })
    .from(chatUsers)
    .innerJoin(users, eq(users.id, chatUsers.userId))
    .where(eq(chatUsers.chatId, chatId));
}

/** Adds users to a chat, where it is still there, and still the chat of `by`, where one asks: else throws `not_found`. */
export async function addUsers(store: Store, chatId: string, userIds: readonly string[], at: Date, by?: string): Promise<void> {
  const { chats, chatUsers, users } = store;
  const theirs = and(eq(chats.id, chatId), by === undefined ? undefined : eq(chats.ownerId, by));
  const row = { chatId: sql`${chats.id}`, userId: sql`${users.id}`, createdAt: at };
  const rows = sql`select ${valuesOf(chatUsers, row)} from ${chats} join ${users} on ${inArray(users.id, [...userIds])}
    where ${theirs}`;
  const [taken] = await store.atomic((q) => [
    // It takes the chat, so that it is not deleted in between, and two who add the same people do not wait for each other.
    take(q, store, theirs).returning({ id: chats.id }),
    q
      .insert(chatUsers)
      .select(rows as never)
      .onConflictDoNothing(),
  ]);
  if (by !== undefined && taken.length === 0) throw new ApiError("not_found");
}

/** Removes users of a chat; answers who was one. `by`: who asks, and removes others only while they own it. */
export async function removeUsers(store: Store, chatId: string, userIds: readonly string[], by?: string): Promise<string[]> {
  const { db, chatUsers } = store;
  const owner = sql`exists (select 1 from chats c where c.id = ${chatId} and c.owner_id = ${by})`;
  const gone = await db
    .delete(chatUsers)
    .where(
      and(
        eq(chatUsers.chatId, chatId),
        inArray(chatUsers.userId, [...userIds]),
        by === undefined ? undefined : or(eq(chatUsers.userId, by), owner),
      ),
    )
    .returning({ userId: chatUsers.userId });
  return gone.map(({ userId }) => userId);
}

/** How many pairs one statement asks about: up to three values each, of which SQLite takes 32,766. */
const PAIRS_AT_ONCE = 10_000;

/** Of pairs of a chat and a user, those where the user still sees the chat, each with the chat's newest number. */
export async function visibleAmong(store: Store, pairs: readonly { chatId: string; userId: string }[]) {
  const { db, chats } = store;
  const distinct = [...new Map(pairs.map((pair) => [`${pair.chatId} ${pair.userId}`, pair])).values()];
  const seen = [];
  for (let from = 0; from < distinct.length; from += PAIRS_AT_ONCE) {
    const some = distinct.slice(from, from + PAIRS_AT_ONCE);
    const values = some.map(({ chatId, userId }) => sql`(${chatId}, ${userId})`);
    const chatIds = [...new Set(some.map(({ chatId }) => chatId))];
    // Both dialects name the columns of such a list so.
    const rows = await db
      .select({ chatId: chats.id, userId: sql<string>`p.column2`, lastSeq: chats.lastSeq, clearedSeq: chats.clearedSeq })
      .from(chats)
      .innerJoin(sql`(values ${sql.join(values, sql`, `)}) p`, sql`p.column1 = ${chats.id}`)
      .where(and(inArray(chats.id, chatIds), visibleTo(store, sql`p.column2`)));
    seen.push(...rows);
  }
  return seen;
}

export const columns = ({ chats: c }: Store) => ({
  id: c.id,
  ownerId: c.ownerId,
  groupId: c.groupId,
  name: c.name,
  model: c.model,
  systemPrompt: c.systemPrompt,
  lastSeq: c.lastSeq,
  key: c.key,
  clearedSeq: c.clearedSeq,
  createdAt: c.createdAt,
  updatedAt: c.updatedAt,
  shared:
    sql<boolean>`(${c.groupId} is not null or (select 1 from chat_users s where s.chat_id = ${c.id} limit 1) is not null)`.mapWith(
      Boolean,
    ),
});

/** The instant of a chat's change. It never goes back, however late a change is written that was begun before another. */
export const notBefore = ({ chats: { updatedAt } }: Store, at: Date | SQL): SQL => {
  const then = at instanceof Date ? sql`${sql.param(at, updatedAt)}` : at;
  return sql`case when ${updatedAt} > ${then} then ${updatedAt} else ${then} end`;
};

/** The statement that takes a chat until the end of its transaction, and changes nothing: what comes after it has the chat alone. */
export const take = (q: Store["db"], { chats }: Store, which: SQL | undefined) =>
  q
    .update(chats)
    .set({ lastSeq: sql`${chats.lastSeq}` })
    .where(which);
