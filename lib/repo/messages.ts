import { and, desc, eq, exists, getTableColumns, gt, gte, isNotNull, lt, not, or, type SQL, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";
import { valuesOf } from "../store/values.ts";
import { type ChatView, columns as chatColumns, notBefore, take, visibleTo } from "./chats.ts";

export type Message = Store["messages"]["$inferSelect"];
export type MessageState = Message["state"];
/** A message with its author's username, as the members of its chat see it. */
export type MessageView = Message & { username: string | null };

/** A prompt that asks for its place in a chat. */
export type Claim = {
  id: string;
  chatId: string;
  userId: string;
  prompt: string;
  /** Null: the chat's. */
  model: string | null;
  offTheRecord: boolean;
  requestId: string;
  fingerprint: string;
  /** How many earlier pairs are wanted. */
  contextPairs: number;
  at: Date;
};
/** An earlier prompt with its reply, and what the pair counts in a context. */
export type Pair = { prompt: string; reply: string; username: string | null; tokens: number };
/** `message` is the one that has the id; it is this claim's where its `requestId` is. `pairs`: the newest first. */
export type Claimed = { chat: ChatView; systemPrompt: string | null; message: MessageView; pairs: Pair[] };

/**
 * Stores a prompt with the next number of its chat, unless its id is there already, and reads what its reply needs: one round
 * trip, of which access is a part. Null: there is no such chat that the user sees. Repeating it changes nothing.
 */
export async function claim(store: Store, c: Claim): Promise<Claimed | null> {
  const { chats, messages, settings, users } = store;
  const { id, chatId, userId, prompt, requestId, fingerprint, at } = c;
  const isIt = eq(chats.id, chatId);
  const seen = visibleTo(store, userId);
  const row = valuesOf(messages, {
    ...{ id, chatId, userId, prompt, requestId, fingerprint, createdAt: at, updatedAt: at },
    seq: sql`${chats.lastSeq}`,
    state: c.offTheRecord ? "off_record" : "streaming",
    reply: "",
    model: c.model ?? sql`${chats.model}`,
    ...{ contextTokens: null, promptTokens: null, completionTokens: null, stoppedBy: null, errorCode: null },
  });
  const known = (also?: SQL) => sql`exists (select 1 from ${messages} m where ${and(sql`m.id = ${id}`, also)})`;
  const numbered = known(sql`m.chat_id = ${chatId} and m.seq = ${chats.lastSeq}`);
  const stored = known(sql`m.chat_id = ${chatId} and m.request_id = ${requestId}`);
  const seq = sql`(select m.seq from ${messages} m where m.id = ${id} and m.chat_id = ${chatId})`;
  const global = sql<string | null>`(select ${settings.value} from ${settings} where ${settings.key} = 'system_prompt')`;
  const [, , , [chat], [found], pairs] = await store.atomic((q) => [
    // It takes the next number, and with it the chat, so that prompts at the same time come one after the other.
    q
      .update(chats)
      .set({
        lastSeq: sql`${chats.lastSeq} + 1`,
        updatedAt: sql`case when ${seen} and not ${known()} then ${notBefore(store, at)} else ${chats.updatedAt} end`,
      })
      .where(isIt),
    q
      .insert(messages)
      .select(sql`select ${row} from ${chats} where ${and(isIt, seen)}` as never)
      .onConflictDoNothing(),
    // It gives the number back where nothing was stored under it.
    q
      .update(chats)
      .set({ lastSeq: sql`${chats.lastSeq} - 1` })
      .where(and(isIt, not(numbered))),
    // What was stored is answered, also to somebody who is removed at this very moment.
    q
      .select({ ...chatColumns(store), global })
      .from(chats)
      .where(and(isIt, or(seen, stored))),
    selectView(q, store).where(eq(messages.id, id)),
    q
      .select({ prompt: messages.prompt, reply: messages.reply, username: users.username, tokens: messages.contextTokens })
      .from(messages)
      .leftJoin(users, eq(users.id, messages.userId))
      .where(and(eq(messages.chatId, chatId), sql`${messages.seq} < ${seq}`, isNotNull(messages.contextTokens)))
      .orderBy(desc(messages.seq))
      .limit(c.contextPairs),
  ]);
  if (!chat || !found) return null;
  const { global: globalPrompt, ...view } = chat;
  return { chat: view, systemPrompt: chat.systemPrompt ?? globalPrompt, message: found, pairs: pairs as Pair[] };
}

/** How a reply ended. */
export type Ending = {
  state: "done" | "stopped" | "failed";
  reply: string;
  contextTokens: number | null;
  promptTokens: number | null;
  completionTokens: number | null;
  stoppedBy: string | null;
  errorCode: string | null;
};

/** The error code of a reply whose producer died. It is a guess, so the producer's own word overrules it. */
export const INTERRUPTED = "interrupted";

/** Ends a reply and answers the message; null where it is gone. Only the first end counts, but for a guess. */
export async function end(store: Store, key: Key, ending: Ending, at: Date): Promise<MessageView | null> {
  const { messages, chats } = store;
  const guess = ending.errorCode === INTERRUPTED;
  const open = guess ? eq(messages.state, "streaming") : or(eq(messages.state, "streaming"), eq(messages.errorCode, INTERRUPTED));
  const counts = and(isKey(store, key), open);
  const [, , [message]] = await store.atomic((q) => [
    // The chat first, as in a claim: one that is repeated while its reply ends would else wait for this, and this for it.
    q
      .update(chats)
      .set({ updatedAt: notBefore(store, at) })
      .where(and(eq(chats.id, key.chatId), exists(q.select({ id: messages.id }).from(messages).where(counts)))),
    q
      .update(messages)
      .set({ ...ending, updatedAt: at })
      .where(counts),
    selectView(q, store).where(isKey(store, key)),
  ]);
  return message ?? null;
}

export type Key = { id: string; chatId: string };

/** Notes who wants running replies of a chat stopped (one of them, or all), and answers which they are. */
export async function askToStop(store: Store, chatId: string, id: string | undefined, userId: string): Promise<string[]> {
  const { chats, messages } = store;
  const [, rows] = await store.atomic((q) => [
    take(q, store, eq(chats.id, chatId)),
    q
      .update(messages)
      .set({ stoppedBy: sql`coalesce(${messages.stoppedBy}, ${userId})` })
      .where(and(eq(messages.chatId, chatId), STREAMING, id ? eq(messages.id, id) : undefined))
      .returning({ id: messages.id }),
  ]);
  return rows.map((row) => row.id);
}

/** The replies that are being made in the chats of a group. */
export async function runningInGroup({ db, messages, chats }: Store, groupId: string): Promise<Key[]> {
  return db
    .select({ id: messages.id, chatId: messages.chatId })
    .from(messages)
    .innerJoin(chats, and(eq(chats.id, messages.chatId), eq(chats.groupId, groupId)))
    .where(eq(messages.state, "streaming"));
}

/** A message of a chat. */
export async function find(store: Store, key: Key): Promise<MessageView | null> {
  const [found] = await selectView(store.db, store).where(isKey(store, key));
  return found ?? null;
}

/** The chat that a message is in, for somebody who sees it. */
export async function chatOf({ db, chats, messages, ...store }: Store, id: string, userId: string): Promise<string | null> {
  const seen = visibleTo({ chats, ...store } as Store, userId);
  const [found] = await db
    .select({ chatId: messages.chatId })
    .from(messages)
    .innerJoin(chats, eq(chats.id, messages.chatId))
    .where(and(eq(messages.id, id), seen));
  return found?.chatId ?? null;
}

/** The newest messages of a chat (or those before a number), newest first. */
export async function page(store: Store, chatId: string, before: number | undefined, limit: number): Promise<MessageView[]> {
  const { db, messages } = store;
  return selectView(db, store)
    .where(and(eq(messages.chatId, chatId), before === undefined ? undefined : lt(messages.seq, before)))
    .orderBy(desc(messages.seq))
    .limit(limit);
}

/** Which of a chat's newest `limit` messages changed at or after an instant, in their order. */
export async function changedSince(store: Store, chatId: string, since: Date, limit: number): Promise<MessageView[]> {
  const { db, chats, messages } = store;
  const lastSeq = db.select({ lastSeq: chats.lastSeq }).from(chats).where(eq(chats.id, chatId));
  return (
    selectView(db, store)
      .where(and(eq(messages.chatId, chatId), gt(messages.seq, sql`${lastSeq} - ${limit}`), gte(messages.updatedAt, since)))
      .orderBy(messages.seq)
      // There are no more than that; it is said for Postgres, which would else prepare for a third of the chat.
      .limit(limit)
  );
}

/** The replies of a chat that are being made, as far as the store knows. */
export async function running(store: Store, chatId: string): Promise<MessageView[]> {
  const { db, messages } = store;
  return selectView(db, store).where(and(eq(messages.chatId, chatId), STREAMING));
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

/** In the words of the partial index. */
const STREAMING = sql`state = 'streaming'`;

const isKey = ({ messages }: Store, { id, chatId }: Key) => and(eq(messages.id, id), eq(messages.chatId, chatId));

const selectView = (q: Store["db"], { messages, users }: Store) =>
  q
    .select({ ...getTableColumns(messages), username: users.username })
    .from(messages)
    .leftJoin(users, eq(users.id, messages.userId));
