import { BusError } from "../bus/bus.ts";
import type { Deps } from "../deps.ts";
import * as messages from "../repo/messages.ts";

/** How long an answer waits for a reply to have stopped. */
const PATIENCE_MS = 5_000;

type Stopping = Pick<Deps, "store" | "bus" | "log" | "generations">;

/**
 * Stops a reply of a chat, or all that are being made, and answers the ids of those. The wish is in the store, too, where its
 * producer looks for it while the bus is down.
 */
export async function stopReplies(
  deps: Stopping,
  chatId: string,
  messageId: string | undefined,
  userId: string,
): Promise<messages.Running[]> {
  const replies = await messages.askToStop(deps.store, chatId, messageId, userId);
  await tellToStop(deps, chatId, replies, userId);
  return replies;
}

/** Tells those who make replies to stop, wherever they are. */
export async function tellToStop(
  { bus, log, generations }: Omit<Stopping, "store">,
  chatId: string,
  replies: readonly messages.Running[],
  userId: string,
): Promise<void> {
  for (const { requestId } of replies) generations.stop(requestId, userId);
  const told = replies.map(({ requestId }) => bus.stop(chatId, requestId, userId));
  for (const result of await Promise.allSettled(told)) {
    if (result.status === "fulfilled") continue;
    if (!(result.reason instanceof BusError)) throw result.reason;
    log({ severity: "WARNING", message: "stop not told: the bus is down", chatId });
  }
}

/** The messages once they are not being replied to any more, or as they are after a while. */
export async function whenStopped(
  { store, live }: Pick<Deps, "store" | "live">,
  chatId: string,
  ids: readonly string[],
): Promise<messages.MessageView[]> {
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS).unref());
  await Promise.race([late, Promise.all(ids.map((id) => live.ended(chatId, id)))]);
  const found = await Promise.all(ids.map((id) => messages.find(store, { id, chatId })));
  return found.filter((message) => message !== null);
}
