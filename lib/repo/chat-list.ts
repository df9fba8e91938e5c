import { and, desc, eq, gt, lt, or, type SQL, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";
import { type ChatView, columns } from "./chats.ts";
import { kept } from "./expiry.ts";

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

/** How many of a chat's newest numbers are looked at to count those unread. */
const UNREAD_MOST = 1_000;

/** The chats that a user sees, the last changed first. */
export async function listForMember(store: Store, userId: string, filter: ChatFilter): Promise<ListedChat[]> {
  const { db, chats, messages, users } = store;
  const { after } = filter;
  const counted = new Date(Math.max(after?.getTime() ?? 0, store.expiredAt()?.getTime() ?? 0));
  const newest = sql`(select max(n.seq) from messages n where n.chat_id = ${chats.id})`;
  const unread = after
    ? sql<number>`(select count(*) from messages n where n.chat_id = ${chats.id} and n.seq > ${chats.lastSeq} - ${sql.raw(
        String(UNREAD_MOST),
      )} and n.user_id <> ${userId} and n.created_at > ${sql.param(counted, messages.createdAt)})`.mapWith(Number)
    : sql<number | null>`null`;
  const rows = await db
    .select({ chat: columns(store), lastMessage: messages, author: users.username, unread })
    .from(chats)
    .innerJoin(pageOf(store, userId, filter), sql`page.id = ${chats.id}`)
    .leftJoin(messages, and(eq(messages.chatId, chats.id), eq(messages.seq, newest), kept(store)))
    .leftJoin(users, eq(users.id, messages.userId))
    .orderBy(desc(chats.updatedAt), desc(chats.id));
  return rows.map(({ chat, lastMessage, author, unread }) => ({
    ...chat,
    lastMessage: lastMessage && { ...lastMessage, username: author },
    unread,
  }));
}

/** The chats of a group, the last changed first. */
export async function latestOfGroup(
  { db, chats }: Store,
  groupId: string,
  limit: number,
): Promise<Pick<ChatView, "id" | "createdAt">[]> {
  return db
    .select({ id: chats.id, createdAt: chats.createdAt })
    .from(chats)
    .where(eq(chats.groupId, groupId))
    .orderBy(desc(chats.updatedAt), desc(chats.id))
    .limit(limit);
}

/** Which chats are on a page. What is shown of them is read for these alone, and no chat is read that the user does not see. */
function pageOf({ chats }: Store, userId: string, { groupId, after, cursor, limit }: ChatFilter): SQL {
  const behind =
    cursor && or(lt(chats.updatedAt, cursor.updatedAt), and(eq(chats.updatedAt, cursor.updatedAt), lt(chats.id, cursor.id)));
  const theirs = (from: SQL, theirs: SQL) => {
    const wanted = and(theirs, groupId ? eq(chats.groupId, groupId) : undefined, after && gt(chats.updatedAt, after), behind);
    return sql`select ${chats.id}, ${chats.updatedAt} from ${from} where ${wanted}`;
  };
  return sql`(${theirs(sql`${chats}`, eq(chats.ownerId, userId))}
    union ${theirs(sql`chat_users cu join ${chats} on ${chats.id} = cu.chat_id`, sql`cu.user_id = ${userId}`)}
    union ${theirs(sql`group_members gm join ${chats} on ${chats.groupId} = gm.group_id`, sql`gm.user_id = ${userId}`)}
    order by updated_at desc, id desc limit ${limit}) page`;
}
