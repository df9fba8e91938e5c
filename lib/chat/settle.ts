import type { Deps } from "../deps.ts";
import * as messages from "../repo/messages.ts";
import { ended } from "./told.ts";

/** Ends a reply whose producer is gone, once, with what was heard of it. Nothing happens while its lease is held. */
export async function settle(
  { bus, store, now }: Pick<Deps, "bus" | "store" | "now">,
  key: messages.Key & messages.Running,
  reply: string,
): Promise<void> {
  if (!(await bus.take(key.chatId, key.requestId))) return;
  const tokens = { contextTokens: null, promptTokens: null, completionTokens: null };
  const ending: messages.Ending = {
    state: "failed",
    reply,
    ...tokens,
    stoppedBy: null,
    errorCode: messages.INTERRUPTED,
    flagged: null,
  };
  const message = await messages.end(store, key, ending, new Date(now()));
  await bus.append(key.chatId, JSON.stringify(message ? ended(message) : { t: "deleted", id: key.id }));
}
