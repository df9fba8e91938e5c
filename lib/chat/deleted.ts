import type { Deps } from "../deps.ts";
import type { ChatView } from "../repo/chats.ts";
import type { Running } from "../repo/messages.ts";
import { announce, announceCleared } from "./announce.ts";
import { tellToStop } from "./stop.ts";

/** As many as a chat names of those who take part in it. Others hear that it is gone as they are. */
const MOST_NAMED = 1_000;

/** A chat that is deleted, the replies that were being made in it, and who saw it. */
export type DeletedChat = { chat: Pick<ChatView, "id" | "createdAt">; running: readonly Running[]; seenBy: readonly string[] };

/** Tells those who made replies in a chat, and those who watched it, that it is gone; `by`: who deleted it. */
export async function tellDeleted(
  deps: Pick<Deps, "bus" | "log" | "generations">,
  { chat, running, seenBy }: DeletedChat,
  by: string,
): Promise<void> {
  await tellToStop(deps, chat.id, running, by);
  // A key that names another chat some day finds nothing of this one.
  await announceCleared(deps, chat.id, running, null, chat.createdAt.getTime());
  await announce(deps, chat.id, { t: "member", added: [], removed: seenBy.slice(0, MOST_NAMED) });
}
