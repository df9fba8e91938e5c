import { eq } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as groups from "../../lib/repo/groups.ts";
import * as messages from "../../lib/repo/messages.ts";
import * as users from "../../lib/repo/users.ts";
import type { Store } from "../../lib/store/store.ts";
import { at, newUser } from "./people.ts";

/** New users, by their names in the test. */
export async function people<const Names extends readonly string[]>(
  store: Store,
  ...names: Names
): Promise<Record<Names[number], users.NewUser>> {
  const made = names.map((name) => newUser({ name }));
  await store.atomic((q) => made.map((user) => users.insert(q, store, user)));
  return Object.fromEntries(made.map((user) => [user.name, user])) as Record<Names[number], users.NewUser>;
}
export type Person = { id: string; username: string };

export const newChat = (owner: Person, change: Partial<chats.NewChat> = {}): chats.NewChat => ({
  id: uuidv7(),
  ownerId: owner.id,
  groupId: null,
  name: "A chat",
  model: "gpt-4o",
  createdAt: at(),
  ...change,
});

/** A new chat of somebody's. */
export const chatOf = (store: Store, owner: Person, change: Partial<chats.NewChat> = {}): Promise<chats.ChatView> =>
  chats.create(store, newChat(owner, change));

/** A new group, whose owner is the first. */
export async function groupOf(store: Store, owner: Person, ...members: Person[]): Promise<groups.GroupView> {
  const group = await groups.create(store, { id: uuidv7(), name: "A group", description: "", createdAt: at() }, owner.id);
  const ids = members.map(({ id }) => id);
  if (ids.length > 0) await groups.addMembers(store, group.id, ids, "member", at(1));
  return group;
}

export const newClaim = (chat: { id: string }, user: Person, change: Partial<claims.Claim> = {}): claims.Claim => ({
  id: uuidv7(),
  chatId: chat.id,
  userId: user.id,
  prompt: "Hello",
  model: null,
  image: null,
  offTheRecord: false,
  requestId: uuidv7(),
  fingerprint: "print",
  contextPairs: 10,
  at: at(),
  ...change,
});

export const ending = (change: Partial<messages.Ending> = {}): messages.Ending => ({
  state: "done",
  reply: "Hello yourself",
  contextTokens: 7,
  promptTokens: 3,
  completionTokens: 4,
  stoppedBy: null,
  errorCode: null,
  flagged: null,
  ...change,
});

/** A claim that must succeed. */
export async function claimed(store: Store, claim: claims.Claim): Promise<claims.Claimed> {
  const found = await claims.claim(store, claim);
  if (!found) throw new Error("the chat is not there for who claims");
  return found;
}

/** A prompt with its reply. */
export async function said(
  store: Store,
  chat: { id: string },
  user: Person,
  change: Partial<claims.Claim> = {},
  end: Partial<messages.Ending> = {},
): Promise<messages.MessageView> {
  const claim = newClaim(chat, user, change);
  await claimed(store, claim);
  const message = await messages.end(store, claim, ending(end), claim.at);
  if (!message) throw new Error("the message is gone");
  return message;
}

/** So many messages, made in one go, of up to that instant. The last of them is the oldest, as where clocks differ. */
export async function saidBefore(
  store: Store,
  chat: { id: string },
  user: Person,
  count: number,
  until: Date,
): Promise<string[]> {
  const { at: _, contextPairs: __, offTheRecord: ___, ...claim } = newClaim(chat, user);
  const rows = Array.from({ length: count }, (_, i) => {
    const createdAt = new Date(until.getTime() - i);
    const change = { id: uuidv7(), seq: i + 1, model: "gpt-4o", createdAt, updatedAt: createdAt };
    return { ...claim, ...change, reply: "", state: "done" as const };
  });
  await store.db.insert(store.messages).values(rows);
  await store.db.update(store.chats).set({ lastSeq: count }).where(eq(store.chats.id, chat.id));
  return rows.map(({ id }) => id);
}

/** The same store, in which messages of up to that instant have expired. */
export const expired = (store: Store, until: Date | null): Store => ({ ...store, expiredAt: () => until });

/** When a chat changed last. */
export async function changedAt(store: Store, chat: { id: string; ownerId: string }): Promise<Date | undefined> {
  return (await chats.findForMember(store, chat.id, chat.ownerId))?.updatedAt;
}

/** Does a number of things, so many of them at a time. */
export async function atATime<T>(most: number, work: readonly (() => Promise<T>)[]): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < work.length; i = next++) results[i] = await (work[i] as () => Promise<T>)();
  };
  await Promise.all(Array.from({ length: most }, worker));
  return results;
}
