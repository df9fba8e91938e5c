import type { Deps } from "../deps.ts";
import * as messages from "../repo/messages.ts";
import { announceCleared } from "./announce.ts";
import { tellToStop } from "./stop.ts";

/**
 * Forgets what was said in a chat of its owner's, in the store first, then in the log and for those who watch; replies that are
 * being made are stopped. False: there is no such chat of theirs. Where the bus is down, those who watch hear of it from the store.
 */
export async function clearChat(
  deps: Pick<Deps, "store" | "bus" | "log" | "generations" | "now">,
  chatId: string,
  ownerId: string,
): Promise<boolean> {
  const cleared = await messages.clear(deps.store, chatId, ownerId, new Date(deps.now()));
  if (!cleared) return false;
  await tellToStop(deps, chatId, cleared.replies, ownerId);
  await announceCleared(deps, chatId, cleared.replies, cleared.upTo);
  return true;
}
