import { and, desc, eq, isNotNull, not, or, type SQL, sql } from "drizzle-orm";
import { compiled, given, reading } from "../store/compiled.ts";
import type { Store } from "../store/store.ts";
import { valuesOf } from "../store/values.ts";
import { type ChatView, columns as chatColumns, notBefore, visibleTo } from "./chats.ts";
import { forget, keptAsGiven } from "./expiry.ts";
import { isInline, shortOf } from "./images.ts";
import { type Message, type MessageView, selectView, viewColumns } from "./messages.ts";
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
  const { image, ...values } = c;
  const run = image !== null && isInline(image) ? claimWithImage : claimPlainly;
  const [, , , [chat], [found], pairs] = await run(store, {
    ...values,
    state: c.offTheRecord ? "off_record" : "streaming",
    image: image && shortOf(image),
    wholeImage: image,
    expiredAt: store.expiredAt(),
  });
  if (!chat) return null;
  // An id is free again once its message has expired.
  if (!found) {
    await forget(store, c);
    return claim(store, c);
  }
  const { global, ...view } = chat;
  return { chat: view, systemPrompt: chat.systemPrompt ?? global, message: found, pairs };
}

const claimPlainly = compiled((store) => claiming(store).statements);
const claimWithImage = compiled((store) => {
  const { statements, stored } = claiming(store);
  const { images, db } = store;
  const row = valuesOf(images, { messageId: given("id", images.messageId), url: given("wholeImage", images.url) });
  const image = db
    .insert(images)
    .select(sql`select ${row} where ${stored}` as never)
    .onConflictDoNothing();
  return [...statements, image] as const;
});

function claiming(store: Store) {
  const { db, chats, messages, settings, users } = store;
  const [id, chatId, userId] = [given("id"), given("chatId"), given("userId")];
  const isIt = eq(chats.id, chatId);
  const seen = visibleTo(store, userId);
  const of = (name: keyof Message) => given(name, messages[name]);
  const at = given("at", messages.createdAt);
  const row = valuesOf(messages, {
    ...{ id: of("id"), chatId: of("chatId"), userId: of("userId"), prompt: of("prompt"), image: of("image") },
    ...{ requestId: of("requestId"), fingerprint: of("fingerprint"), state: of("state"), createdAt: at, updatedAt: at },
    seq: sql`${chats.lastSeq}`,
    reply: "",
    model: sql`coalesce(cast(${given("model")} as text), ${chats.model})`,
    ...{ contextTokens: null, promptTokens: null, completionTokens: null, stoppedBy: null, errorCode: null, flagged: null },
  });
  const known = (also?: SQL) => sql`exists (select 1 from ${messages} m where ${and(sql`m.id = ${id}`, also)})`;
  const numbered = known(sql`m.chat_id = ${chatId} and m.seq = ${chats.lastSeq}`);
  const stored = known(sql`m.chat_id = ${chatId} and m.request_id = ${given("requestId")}`);
  const seq = sql`(select m.seq from ${messages} m where m.id = ${id} and m.chat_id = ${chatId})`;
  const global = sql<string | null>`(select ${settings.value} from ${settings} where ${settings.key} = ${SYSTEM_PROMPT})`;
  const chat = { ...chatColumns(store), global };
  const pair = {
    ...{ id: messages.id, prompt: messages.prompt, reply: messages.reply, image: messages.image },
    ...{ username: users.username, tokens: sql<number>`${messages.contextTokens}` },
  };
  const statements = [
    // It takes the next number, and with it the chat, so that prompts at the same time come one after the other.
    db
      .update(chats)
      .set({
        lastSeq: sql`${chats.lastSeq} + 1`,
        updatedAt: sql`case when ${seen} and not ${known()} then ${notBefore(store, given("at", chats.updatedAt))}
          else ${chats.updatedAt} end`,
      })
      .where(isIt),
    db
      .insert(messages)
      .select(sql`select ${row} from ${chats} where ${and(isIt, seen)}` as never)
      .onConflictDoNothing(),
    // It gives the number back where nothing was stored under it.
    db
      .update(chats)
      .set({ lastSeq: sql`${chats.lastSeq} - 1` })
      .where(and(isIt, not(numbered))),
    // What was stored is answered, also to somebody who is removed at this very moment.
    reading(
      chat,
      db
        .select(chat)
        .from(chats)
        .where(and(isIt, or(seen, stored))),
    ),
    reading(viewColumns(store), selectView(db, store).where(and(eq(messages.id, id), keptAsGiven(store)))),
    reading(
      pair,
      db
        .select(pair)
        .from(messages)
        .leftJoin(users, eq(users.id, messages.userId))
        .where(
          and(eq(messages.chatId, chatId), sql`${messages.seq} < ${seq}`, isNotNull(messages.contextTokens), keptAsGiven(store)),
        )
        .orderBy(desc(messages.seq))
        .limit(sql.placeholder("contextPairs")),
    ),
  ] as const;
  return { statements, stored };
}
