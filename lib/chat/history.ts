import { BUS_OPTIONS } from "../bus/bus.ts";
import type { Deps } from "../deps.ts";
import * as messages from "../repo/messages.ts";

/**
 * The newest messages of a chat (or those before a number), in their order, and the number to go on from. A reply whose
 * producer is gone is settled before it is shown, so that nobody sees it being made for ever.
 */
export async function readPage(
  { store, live, now }: Pick<Deps, "store" | "live" | "now">,
  chatId: string,
  before: number | undefined,
  limit: number,
): Promise<{ messages: messages.MessageView[]; next: number | null }> {
  const read = () => messages.page(store, chatId, before, limit + 1);
  let found = await read();
  const stale = ({ state, createdAt }: messages.Message) =>
    state === "streaming" && now() - createdAt.getTime() > BUS_OPTIONS.leaseMs;
  if (found.some(stale)) {
    await live.settle(chatId);
    found = await read();
  }
  const page = found.slice(0, limit);
  return { messages: page.toReversed(), next: found.length > limit ? (page.at(-1)?.seq ?? null) : null };
}
