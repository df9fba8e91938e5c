import type { Deps } from "../deps.ts";
import * as chats from "../repo/chats.ts";
import { isUuid, uuidOf } from "../uuid.ts";
import { announceCleared } from "./announce.ts";

/**
 * The id of the chat that a user names: any chat by its id, or one of their own by the key that they chose for it. That one's id
 * follows from the two, so that it need not be looked up, and that nobody names another's.
 */
export const chatIdOf = (name: string, userId: string): string => (isUuid(name) ? name : uuidOf("chat", userId, name));

/** A chat by its name, for somebody who sees it. */
export const findNamed = ({ store }: Pick<Deps, "store">, name: string, userId: string): Promise<chats.ChatView | null> =>
  chats.findForMember(store, chatIdOf(name, userId), userId);

/** Makes a user's own chat with a key, where there is none yet, and says its id. An id makes nothing. */
export async function makeNamed(
  deps: Pick<Deps, "store" | "config" | "now" | "bus" | "log">,
  name: string,
  userId: string,
): Promise<string> {
  const { store, config, now } = deps;
  const id = chatIdOf(name, userId);
  if (isUuid(name)) return id;
  const { defaultModel: model } = config.chat;
  const createdAt = new Date(now());
  const made = await chats.createNamed(store, { id, ownerId: userId, name, model, key: name, createdAt });
  // One of the same key may have been deleted while the bus was down, and its log be there still.
  if (made) await announceCleared(deps, id, [], null, createdAt.getTime() - 1);
  return id;
}
