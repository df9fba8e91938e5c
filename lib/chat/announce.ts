import { BusError } from "../bus/bus.ts";
import type { Deps } from "../deps.ts";
import { latestOfGroup } from "../repo/chat-list.ts";
import type { Running } from "../repo/messages.ts";
import type { Told } from "./told.ts";

/** How long an answer waits for those who watch to be told. */
const PATIENCE_MS = 300;
/** How many chats of a group are told what became of it. What is left open in others the rounds find (`lib/auth/membership.ts`). */
export const MOST_TOLD = 100;

type Needs = Pick<Deps, "bus" | "log">;

/** Tells those who watch a chat, where the bus can; what they miss they find in the store. */
export const announce = (deps: Needs, chatId: string, told: Told): Promise<void> =>
  telling(deps, chatId, deps.bus.append(chatId, JSON.stringify(told)));

/** Tells those who watch chats of a group, of which it is the last changed that are watched. */
export async function announceToGroup(deps: Needs & Pick<Deps, "store">, groupId: string, told: Told): Promise<void> {
  const chats = await latestOfGroup(deps.store, groupId, MOST_TOLD);
  await Promise.all(chats.map(({ id }) => announce(deps, id, told)));
}

/**
 * Tells them that what was said up to a number is gone, replies that were being made among it, and takes it out of the log. Null:
 * the chat itself is gone.
 */
export const announceCleared = (
  deps: Needs,
  chatId: string,
  replies: readonly Running[],
  upTo: number | null,
  made?: number,
): Promise<void> =>
  telling(
    deps,
    chatId,
    deps.bus.clear(
      chatId,
      replies.map(({ requestId }) => requestId),
      JSON.stringify({ t: "cleared", upTo, ...(made !== undefined && { made }) } satisfies Told),
    ),
  );

async function telling({ log }: Needs, chatId: string, told: Promise<unknown>): Promise<void> {
  const said = told.then(
    () => {},
    (error: unknown) => {
      if (!(error instanceof BusError)) throw error;
      log({ severity: "WARNING", message: "not announced: the bus is down", chatId });
    },
  );
  await Promise.race([said, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS).unref())]);
}
