import { and, desc, eq, isNotNull, not, or, type SQL, sql } from "drizzle-orm";
import type { Store } from "../store/store.ts";
import { valuesOf } from "../store/values.ts";
import { type ChatView, columns as chatColumns, notBefore, visibleTo } from "./chats.ts";
import { forget, kept } from "./expiry.ts";
import { isInline, shortOf } from "./images.ts";
import { type MessageView, selectView } from "./messages.ts";
import { SYSTEM_PROMPT } from "./settings.ts";

/** A prompt that asks for its place in a chat. */
export type Claim = {
  id: string;
  chatId: string;
  userId: string;
  prompt: string;
  /** Null: the chat's. */
  model: string | null;
  offTheRecord: boolean;
  /** The address of an image that belongs to the prompt, as it was given. */
  image: string | null;
  requestId: string;
  fingerprint: string;
  /** How many earlier pairs are wanted. */
  contextPairs: number;
  at: Date;
};
/** An earlier prompt with its reply, and what the pair counts in a context. */
export type Pair = { id: string; prompt: string; reply: string; image: string | null; username: string | null; tokens: number };
/** `message` is the one that has the id; it is this claim's where its `requestId` is. `pairs`: the newest first. */
export type Claimed = { chat: ChatView; systemPrompt: string | null; message: MessageView; pairs: Pair[] };

/**
 * Stores a prompt with the next number of its chat, unless its id is there already, and reads what its reply needs: one round
 * trip, of which access is a part. Null: there is no such chat that the user sees. Repeating it changes nothing.
 */
export async function claim(store: Store, c: Claim): Promise<Claimed | null> {
  const { chats, messages, images, settings, users } = store;
  const { id, chatId, userId, prompt, requestId, fingerprint, image, at } = c;
  const isIt = eq(chats.id, chatId);
  const seen = visibleTo(store, userId);
  const row = valuesOf(messages, {
    ...{ id, chatId, userId, prompt, requestId, fingerprint, createdAt: at, updatedAt: at },
    seq: sql`${chats.lastSeq}`,
    state: c.offTheRecord ? "off_record" : "streaming",
    reply: "",
    model: c.model ?? sql`${chats.model}`,
    image: image && shortOf(image),
    ...{ contextTokens: null, promptTokens: null, completionTokens: null, stoppedBy: null, errorCode: null, flagged: null },
  });
  const known = (also?: SQL) => sql`exists (select 1 from ${messages} m where ${and(sql`m.id = ${id}`, also)})`;
  const numbered = known(sql`m.chat_id = ${chatId} and m.seq = ${chats.lastSeq}`);
  const stored = known(sql`m.chat_id = ${chatId} and m.request_id = ${requestId}`);
  const seq = sql`(select m.seq from ${messages} m where m.id = ${id} and m.chat_id = ${chatId})`;
  const global = sql<string | null>`(select ${settings.value} from ${settings} where ${settings.key} = ${SYSTEM_PROMPT})`;
  const imageRow = image !== null && isInline(image) ? valuesOf(images, { messageId: id, url: image }) : null;
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
    selectView(q, store).where(and(eq(messages.id, id), kept(store))),
    q
      .select({
        ...{ id: messages.id, prompt: messages.prompt, reply: messages.reply, image: messages.image },
        ...{ username: users.username, tokens: messages.contextTokens },
      })
      .from(messages)
      .leftJoin(users, eq(users.id, messages.userId))
      .where(and(eq(messages.chatId, chatId), sql`${messages.seq} < ${seq}`, isNotNull(messages.contextTokens), kept(store)))
      .orderBy(desc(messages.seq))
      .limit(c.contextPairs),
    ...(imageRow
      ? [
          q
            .insert(images)
            .select(sql`select ${imageRow} where ${stored}` as never)
            .onConflictDoNothing(),
        ]
      : []),
  ]);
  if (!chat) return null;
  // An id is free again once its message has expired.
  if (!found) {
    await forget(store, c);
    return claim(store, c);
  }
  const { global: globalPrompt, ...view } = chat;
  return { chat: view, systemPrompt: chat.systemPrompt ?? globalPrompt, message: found, pairs: pairs as Pair[] };
}
