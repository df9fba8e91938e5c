import type { Log } from "../log.ts";
import * as sessions from "../repo/sessions.ts";
import { type Store, storeError } from "../store/store.ts";
import { createRounds, type Rounds } from "./rounds.ts";

/** How often running work is authorised again. */
export const AUTHORIZE_EVERY_MS = 15_000;

/** Ends what still runs for a session that has meanwhile ended: signed out, expired, revoked, or its user disabled. */
export type Revocation = Rounds<string>;

export type RevocationOptions = { store: Store; log: Log; now(): number; everyMs?: number };

/** Work ends within 30 seconds of its session. */
export function createRevocation({ store, log, now, everyMs = AUTHORIZE_EVERY_MS }: RevocationOptions): Revocation {
  return createRounds({
    everyMs,
    allowed: async (ids) => {
      const live = await sessions.liveAmong(store, [...new Set(ids)], new Date(now()));
      return (id) => live.has(id);
    },
    onError: (error) => log({ severity: "WARNING", message: "sessions not checked", code: storeError(error)?.code }),
  });
}
