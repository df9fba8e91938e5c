import type { Deps } from "../deps.ts";
import * as chats from "../repo/chats.ts";
import { isUuid, uuidOf } from "../uuid.ts";

/**
 * The id of the chat that a user names: any chat by its id, or one of their own by the key that they chose for it. That one's id
 * follows from the two, so that it need not be looked up, and that nobody names another's.
 */
export const chatIdOf = (name: string, userId: string): string => (isUuid(name) ? name : uuidOf("chat", userId, name));

/** A chat by its name, for somebody who sees it. */
export const findNamed = ({ store }: Pick<Deps, "store">, name: string, userId: string): Promise<chats.ChatView | null> =>
  chats.findForMember(store, chatIdOf(name, userId), userId);

/** Makes a user's own chat with a key, where there is none yet. An id makes nothing. */
export async function makeNamed({ store, config, now }: Pick<Deps, "store" | "config" | "now">, name: string, userId: string) {
  if (isUuid(name)) return;
  const id = chatIdOf(name, userId);
  const { defaultModel: model } = config.chat;
  await chats.create(store, { id, ownerId: userId, groupId: null, name, model, key: name, createdAt: new Date(now()) });
}
