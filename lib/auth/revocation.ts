import type { Log } from "../log.ts";
import * as sessions from "../repo/sessions.ts";
import { type Store, storeError } from "../store/store.ts";

/** How often running work is authorised again. */
const EVERY_MS = 15_000;

/** Ends what still runs for a session that has meanwhile ended: signed out, expired, revoked, or its user disabled. */
export type Revocation = {
  /** Calls `end` within 30 seconds of the session's end, unless the answer was called before. */
  watch(sessionId: string, end: () => void): () => void;
  close(): void;
};

export type RevocationOptions = { store: Store; log: Log; now(): number; everyMs?: number };

/** One query a round, and none while nothing lasts from one round to the next. */
export function createRevocation({ store, log, now, everyMs = EVERY_MS }: RevocationOptions): Revocation {
  const watched = new Set<{ sessionId: string; end(): void; since: number }>();
  let timer: NodeJS.Timeout | undefined;

  const round = async () => {
    const lasting = [...watched].filter(({ since }) => performance.now() - since > everyMs / 2);
    if (lasting.length === 0) return;
    try {
      const ids = [...new Set(lasting.map(({ sessionId }) => sessionId))];
      const live = await sessions.liveAmong(store, ids, new Date(now()));
      for (const work of lasting) if (!live.has(work.sessionId) && watched.delete(work)) work.end();
    } catch (error) {
      // While the store is down nobody can have been revoked in it; the next round asks again.
      log({ severity: "WARNING", message: "sessions not checked", code: storeError(error)?.code });
    }
  };
  const schedule = () => {
    timer ??= setTimeout(async () => {
      await round();
      timer = undefined;
      if (watched.size > 0) schedule();
    }, everyMs).unref();
  };
  return {
    watch: (sessionId, end) => {
      const work = { sessionId, end, since: performance.now() };
      watched.add(work);
      schedule();
      return () => void watched.delete(work);
    },
    close: () => clearTimeout(timer),
  };
}
