import { and, asc, desc, eq, gt, inArray, lt, or, type SQL, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";

/** A chat as those see it who may. `shared`: others than its owner take part. */
export type ChatView = Store["chats"]["$inferSelect"] & { shared: boolean };
export type NewChat = { id: string; ownerId: string; groupId: string | null; name: string; model: string; createdAt: Date };
export type Participant = { id: string; username: string; name: string | null; role: "owner" | "member" };

/** Who sees a chat: its owner, its users, and the members of its group. The one place that says so. */
export const visibleTo = ({ chats }: Store, userId: SQL | string) =>
  sql`(${chats.ownerId} = ${userId}
    or exists (select 1 from chat_users cu where cu.chat_id = ${chats.id} and cu.user_id = ${userId})
    or exists (select 1 from group_members gm where gm.group_id = ${chats.groupId} and gm.user_id = ${userId}))`;

/** Makes a chat. */
export async function create({ db, chats }: Store, chat: NewChat): Promise<ChatView> {
  const row = { ...chat, systemPrompt: null, lastSeq: 0, updatedAt: chat.createdAt };
  await db.insert(chats).values(row).onConflictDoNothing();
  return { ...row, shared: chat.groupId !== null };
}

/** A chat, for somebody who sees it. Absent and not to be seen look the same on purpose. */
export async function findForMember(store: Store, chatId: string, userId: string): Promise<ChatView | null> {
  const { db, chats } = store;
  const [found] = await db
    .select(columns(store))
    .from(chats)
    .where(and(eq(chats.id, chatId), visibleTo(store, userId)));
  return found ?? null;
}

export type ChatFilter = {
  groupId?: string | undefined;
  /** Only chats that changed after this instant. */
  after?: Date | undefined;
  /** Only chats behind this one in the list. */
  cursor?: { updatedAt: Date; id: string } | undefined;
  limit: number;
};
/** A chat with its newest message, and how many came after `after` from others, as far as `UNREAD_MOST`. */
export type ListedChat = ChatView & {
  lastMessage: (Store["messages"]["$inferSelect"] & { username: string | null }) | null;
  unread: number | null;
};

/** How many of a chat's newest messages are looked at to count those unread. */
const UNREAD_MOST = 1_000;

/** The chats that a user sees, the last changed first. */
export async function listForMember(store: Store, userId: string, filter: ChatFilter): Promise<ListedChat[]> {
  const { db, chats, messages, users } = store;
  const { groupId, after, cursor, limit } = filter;
  const mine = sql`(select id from chats where owner_id = ${userId} union select chat_id from chat_users where user_id = ${userId}
    union select c.id from group_members g join chats c on c.group_id = g.group_id where g.user_id = ${userId})`;
  const behind =
    cursor && or(lt(chats.updatedAt, cursor.updatedAt), and(eq(chats.updatedAt, cursor.updatedAt), lt(chats.id, cursor.id)));
  const newest = sql`(select max(n.seq) from messages n where n.chat_id = ${chats.id})`;
  const unread = after
    ? sql<number>`(select count(*) from (select n.user_id, n.created_at from messages n where n.chat_id = ${chats.id}
        order by n.seq desc limit ${sql.raw(String(UNREAD_MOST))}) r
        where r.user_id <> ${userId} and r.created_at > ${messages.createdAt.mapToDriverValue(after)})`.mapWith(Number)
    : sql<number | null>`null`;
  const rows = await db
    .select({ chat: columns(store), lastMessage: messages, author: users.username, unread })
    .from(chats)
    .leftJoin(messages, and(eq(messages.chatId, chats.id), eq(messages.seq, newest)))
    .leftJoin(users, eq(users.id, messages.userId))
    .where(
      and(
        sql`${chats.id} in ${mine}`,
        groupId ? eq(chats.groupId, groupId) : undefined,
        after ? gt(chats.updatedAt, after) : undefined,
        behind,
      ),
    )
    .orderBy(desc(chats.updatedAt), desc(chats.id))
    .limit(limit);
  return rows.map(({ chat, lastMessage, author, unread }) => ({
    ...chat,
    lastMessage: lastMessage && { ...lastMessage, username: author },
    unread,
  }));
}

/** Changes a chat of its owner's; null when there is none. */
export async function update(
  store: Store,
  chatId: string,
  ownerId: string,
  change: { name?: string; model?: string },
  at: Date,
): Promise<ChatView | null> {
  const { db, chats } = store;
  const [changed] = await db
    .update(chats)
    .set({ ...change, updatedAt: at })
    .where(and(eq(chats.id, chatId), eq(chats.ownerId, ownerId)))
    .returning(columns(store));
  return changed ?? null;
}

/** Deletes a chat of its owner's with its messages; false when there is none. */
export async function remove({ db, chats }: Store, chatId: string, ownerId: string): Promise<boolean> {
  const gone = await db
    .delete(chats)
    .where(and(eq(chats.id, chatId), eq(chats.ownerId, ownerId)))
    .returning({ id: chats.id });
  return gone.length > 0;
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

/** Adds users to a chat; who takes part already is left as is. */
export async function addUsers({ db, chatUsers }: Store, chatId: string, userIds: readonly string[], at: Date): Promise<void> {
  await db
    .insert(chatUsers)
    .values(userIds.map((userId) => ({ chatId, userId, createdAt: at })))
    .onConflictDoNothing();
}

/** Removes users of a chat; answers who was one. Its owner and the members of its group go on seeing it. */
export async function removeUsers({ db, chatUsers }: Store, chatId: string, userIds: readonly string[]): Promise<string[]> {
  const gone = await db
    .delete(chatUsers)
    .where(and(eq(chatUsers.chatId, chatId), inArray(chatUsers.userId, [...userIds])))
    .returning({ userId: chatUsers.userId });
  return gone.map(({ userId }) => userId);
}

/** Of pairs of a chat and a user, those where the user still sees the chat, each with the chat's newest number. */
export async function visibleAmong(store: Store, pairs: readonly { chatId: string; userId: string }[]) {
  const { db, chats, users } = store;
  const chatIds = [...new Set(pairs.map(({ chatId }) => chatId))];
  const userIds = [...new Set(pairs.map(({ userId }) => userId))];
  return db
    .select({ chatId: chats.id, userId: users.id, lastSeq: chats.lastSeq, updatedAt: chats.updatedAt })
    .from(chats)
    .innerJoin(users, and(inArray(users.id, userIds), visibleTo(store, sql`${users.id}`)))
    .where(inArray(chats.id, chatIds));
}

export const columns = ({ chats: c }: Store) => ({
  id: c.id,
  ownerId: c.ownerId,
  groupId: c.groupId,
  name: c.name,
  model: c.model,
  systemPrompt: c.systemPrompt,
  lastSeq: c.lastSeq,
  createdAt: c.createdAt,
  updatedAt: c.updatedAt,
  shared: sql<boolean>`(${c.groupId} is not null or exists (select 1 from chat_users s where s.chat_id = ${c.id}))`.mapWith(
    Boolean,
  ),
});
