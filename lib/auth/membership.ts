import type { Log } from "../log.ts";
import * as chats from "../repo/chats.ts";
import { type Store, storeError } from "../store/store.ts";
import { AUTHORIZE_EVERY_MS } from "./revocation.ts";
import { createRounds, type Rounds } from "./rounds.ts";

export type Place = { chatId: string; userId: string };
/** Ends the streams of those who no longer see the chat that they watch. */
export type Membership = Rounds<Place>;

export type MembershipOptions = {
  store: Store;
  log: Log;
  /** Hears on the way what the store says of each chat that is watched: its newest number, and up to which it was cleared. */
  onChat(chatId: string, lastSeq: number, clearedSeq: number): void;
  everyMs?: number;
};

/** A stream ends within 30 seconds of its viewer's removal. */
export function createMembership({ store, log, onChat, everyMs = AUTHORIZE_EVERY_MS }: MembershipOptions): Membership {
  return createRounds({
    everyMs,
    allowed: async (places) => {
      const seen = await chats.visibleAmong(store, places);
      const watched = new Map(seen.map((row) => [row.chatId, row]));
      for (const { chatId, lastSeq, clearedSeq } of watched.values()) onChat(chatId, lastSeq, clearedSeq ?? 0);
      const pairs = new Set(seen.map(({ chatId, userId }) => `${chatId} ${userId}`));
      return ({ chatId, userId }) => pairs.has(`${chatId} ${userId}`);
    },
    onError: (error) => log({ severity: "WARNING", message: "members not checked", code: storeError(error)?.code }),
  });
}
