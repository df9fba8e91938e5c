import { and, desc, eq, exists, getTableColumns, gt, gte, lt, or, type SQL, sql } from "drizzle-orm";
import { compiled, given, reading } from "../store/compiled.ts";
import type { Store } from "../store/store.ts";
import { notBefore, take, visibleTo } from "./chats.ts";
import { kept } from "./expiry.ts";

export type Message = Store["messages"]["$inferSelect"];
export type MessageState = Message["state"];
/** A message with its author's username, as the members of its chat see it. */
export type MessageView = Message & { username: string | null };

/** How a reply ended. */
export type Ending = {
  state: "done" | "stopped" | "failed";
  reply: string;
  contextTokens: number | null;
  promptTokens: number | null;
  completionTokens: number | null;
  stoppedBy: string | null;
  errorCode: string | null;
  flagged: string | null;
};

/** The error code of a reply whose producer died. It is a guess, so the producer's own word overrules it. */
export const INTERRUPTED = "interrupted";

export type Key = { id: string; chatId: string };

/** Ends a reply and answers the message; null where it is gone. Only the first end counts, but for a guess. */
export async function end(store: Store, key: Claim, ending: Ending, at: Date): Promise<MessageView | null> {
  const run = ending.errorCode === INTERRUPTED ? endByGuess : endForGood;
  const [, , [message]] = await run(store, { ...key, ...ending, at });
  return message ?? null;
}

const endForGood = compiled((store) => endingIf(store, or(STREAMING, eq(store.messages.errorCode, INTERRUPTED))));
const endByGuess = compiled((store) => endingIf(store, STREAMING));

function endingIf(store: Store, open: SQL | undefined) {
  const { db, messages, chats } = store;
  const chatId = given("chatId");
  // An id may have been given again since, to another prompt.
  const isIt = and(eq(messages.id, given("id")), eq(messages.chatId, chatId), eq(messages.requestId, given("requestId")));
  const counts = and(isIt, open);
  const of = (name: keyof Ending) => given(name, messages[name]);
  return [
    // The chat first, as in a claim: one that is repeated while its reply ends would else wait for this, and this for it.
    db
      .update(chats)
      .set({ updatedAt: notBefore(store, given("at", chats.updatedAt)) })
      .where(and(eq(chats.id, chatId), exists(db.select({ id: messages.id }).from(messages).where(counts)))),
    db
      .update(messages)
      .set({
        ...{
          state: of("state"),
          reply: of("reply"),
          stoppedBy: of("stoppedBy"),
          errorCode: of("errorCode"),
          flagged: of("flagged"),
        },
        ...{ contextTokens: of("contextTokens"), promptTokens: of("promptTokens"), completionTokens: of("completionTokens") },
        updatedAt: given("at", messages.updatedAt),
      })
      .where(counts),
    reading(viewColumns(store), selectView(db, store).where(isIt)),
  ] as const;
}

/** A reply that is being made: whose it is, is told by the request that claimed it, since an id can be used again. */
export type Running = { id: string; requestId: string };
type Claim = Key & Running;

/** Notes who wants running replies of a chat stopped (one of them, or all), and answers which they are. */
export async function askToStop(store: Store, chatId: string, id: string | undefined, userId: string): Promise<Running[]> {
  const { chats, messages } = store;
  const [, rows] = await store.atomic((q) => [
    take(q, store, eq(chats.id, chatId)),
    q
      .update(messages)
      .set({ stoppedBy: sql`coalesce(${messages.stoppedBy}, ${userId})` })
      .where(and(eq(messages.chatId, chatId), STREAMING, id ? eq(messages.id, id) : undefined))
      .returning({ id: messages.id, requestId: messages.requestId }),
  ]);
  return rows;
}

/** The replies that are being made in the chats of a group. */
export async function runningInGroup({ db, messages, chats }: Store, groupId: string): Promise<Claim[]> {
  return db
    .select({ id: messages.id, chatId: messages.chatId, requestId: messages.requestId })
    .from(messages)
    .innerJoin(chats, and(eq(chats.id, messages.chatId), eq(chats.groupId, groupId)))
    .where(eq(messages.state, "streaming"));
}

/** A message of a chat. */
export async function find(store: Store, key: Key): Promise<MessageView | null> {
  const [found] = await selectView(store.db, store).where(and(isKey(store, key), kept(store)));
  return found ?? null;
}

/** The chat that a message is in, for somebody who sees it. */
export async function chatOf(store: Store, id: string, userId: string): Promise<string | null> {
  const { db, chats, messages } = store;
  const [found] = await db
    .select({ chatId: messages.chatId })
    .from(messages)
    .innerJoin(chats, eq(chats.id, messages.chatId))
    .where(and(eq(messages.id, id), kept(store), visibleTo(store, userId)));
  return found?.chatId ?? null;
}

/** The newest messages of a chat (or those before a number), newest first. */
export async function page(store: Store, chatId: string, before: number | undefined, limit: number): Promise<MessageView[]> {
  const { db, messages } = store;
  return selectView(db, store)
    .where(and(eq(messages.chatId, chatId), before === undefined ? undefined : lt(messages.seq, before), kept(store)))
    .orderBy(desc(messages.seq))
    .limit(limit);
}

/** Which of a chat's newest `limit` messages changed at or after an instant, in their order. */
export async function changedSince(store: Store, chatId: string, since: Date, limit: number): Promise<MessageView[]> {
  const { db, chats, messages } = store;
  const lastSeq = db.select({ lastSeq: chats.lastSeq }).from(chats).where(eq(chats.id, chatId));
  return (
    selectView(db, store)
      .where(
        and(
          eq(messages.chatId, chatId),
          gt(messages.seq, sql`${lastSeq} - ${limit}`),
          gte(messages.updatedAt, since),
          kept(store),
        ),
      )
      .orderBy(messages.seq)
      // There are no more than that; it is said for Postgres, which would else prepare for a third of the chat.
      .limit(limit)
  );
}

/** The replies of a chat that are being made, as far as the store knows. */
export async function running(store: Store, chatId: string): Promise<MessageView[]> {
  const { db, messages } = store;
  return selectView(db, store).where(and(eq(messages.chatId, chatId), STREAMING, kept(store)));
}

/** Deletes a message, for its author, while they see it, or its chat's owner; false when there is none of theirs. */
export async function remove(store: Store, key: Key, userId: string): Promise<boolean> {
  const { db, messages, chats } = store;
  const owner = sql`exists (select 1 from ${chats} c where c.id = ${key.chatId} and c.owner_id = ${userId})`;
  const seen = sql`exists (select 1 from ${chats} where ${chats.id} = ${key.chatId} and ${visibleTo(store, userId)})`;
  const gone = await db
    .delete(messages)
    .where(and(isKey(store, key), or(and(eq(messages.userId, userId), seen), owner)))
    .returning({ id: messages.id });
  return gone.length > 0;
}

/** What was cleared: everything up to a number, and the replies of it that were being made, or had just ended. */
export type Cleared = { upTo: number; replies: Running[] };

/**
 * Forgets what was said in a chat of its owner's up to now. Null: there is no such chat of theirs. It has the chat alone: a prompt
 * comes before it, and goes, or after it, and finds nothing.
 */
export async function clear(store: Store, chatId: string, ownerId: string, at: Date): Promise<Cleared | null> {
  const { chats, messages } = store;
  const theirs = and(eq(chats.id, chatId), eq(chats.ownerId, ownerId));
  const [taken, replies] = await store.atomic((q) => [
    q
      .update(chats)
      .set({ clearedSeq: sql`${chats.lastSeq}`, updatedAt: notBefore(store, at) })
      .where(theirs)
      .returning({ upTo: chats.lastSeq }),
    // Also those that have just ended: what their producers still tell of them must not come behind this.
    q
      .select({ id: messages.id, requestId: messages.requestId })
      .from(messages)
      .where(and(eq(messages.chatId, chatId), or(STREAMING, gte(messages.updatedAt, new Date(at.getTime() - JUST_MS))))),
    q.delete(messages).where(and(eq(messages.chatId, chatId), exists(q.select({ id: chats.id }).from(chats).where(theirs)))),
  ]);
  const [chat] = taken;
  return chat ? { upTo: chat.upTo, replies } : null;
}

/** For how long the end of a reply may be on its way to those who watch. */
const JUST_MS = 15_000;

/** In the words of the partial index. */
const STREAMING = sql`state = 'streaming'`;

const isKey = ({ messages }: Store, { id, chatId }: Key) => and(eq(messages.id, id), eq(messages.chatId, chatId));

export const selectView = (q: Store["db"], store: Store) =>
  q.select(viewColumns(store)).from(store.messages).leftJoin(store.users, eq(store.users.id, store.messages.userId));

export const viewColumns = ({ messages, users }: Store) => ({ ...getTableColumns(messages), username: users.username });
