import type { Log } from "../log.ts";
import * as ledger from "../repo/ledger.ts";
import * as sessions from "../repo/sessions.ts";
import { type Store, StoreError, storeError, twice } from "../store/store.ts";
import { grouped } from "./group.ts";
import { createUnwritten } from "./unwritten.ts";

/**
 * The audit log's writer, and so the door: an event exists before a request is served, and who is calling is what the event
 * says. Nothing is served that could not be written; an outcome that could not be written is kept and tried again.
 */
export type Ledger = {
  /** Opens an event for the token's user. Null: the token is not valid, and nothing was written. Throws `StoreError`. */
  open(opening: ledger.Opening, tokenHash: string): Promise<ledger.Caller | null>;
  /** Opens an event that belongs to nobody yet. Throws `StoreError`. */
  openAnonymous(opening: ledger.Opening): Promise<void>;
  /** Writes an event's outcome. Resolves when it is written, or after `PATIENCE_MS`; it then goes on being tried. */
  close(id: string, outcome: ledger.Outcome): Promise<void>;
  /** Resolves when every outcome is written, or rejects after the deadline with how many are not. */
  settled(deadlineMs: number): Promise<void>;
};

const PATIENCE_MS = 2_000;
const RETRY_MS = [50, 200, 500, 1_000];
/** Outcomes that wait for a store that is down; what comes beyond this is logged and given up. */
const BACKLOG = 20_000;
/** How long a session's use goes unrecorded, so that most requests write no session row. */
const TOUCH_MS = 3_600_000;

export type LedgerOptions = { store: Store; log: Log; now(): number; slidingMs: number; inFlight: number };
type Work = { open: ledger.Keyed } | { close: ledger.Closing };

export function createLedger({ store, log, now, slidingMs, inFlight }: LedgerOptions): Ledger {
  const unwritten = createUnwritten(PATIENCE_MS);
  // Openings and outcomes that arrive together share a transaction.
  const submit = grouped<Work, ledger.Caller | null>((group) => flush(store, group), {
    size: 128,
    windowMs: 1,
    inFlight,
    now: () => performance.now(),
  });

  const write = async (closing: ledger.Closing, bare = false): Promise<void> => {
    const { id, outcome } = closing;
    const told = { requestId: id, status: outcome.status };
    for (let attempt = 0; ; attempt++) {
      try {
        await submit({ close: closing });
        return;
      } catch (error) {
        const failure = storeError(error);
        const { code } = failure ?? {};
        if (failure?.permanent && !bare) {
          log({ severity: "WARNING", message: "outcome written without its content", ...told, code });
          return write({ id, outcome: withoutContent(outcome) }, true);
        }
        if (!failure || failure.permanent || unwritten.size > BACKLOG) {
          log({ severity: "ERROR", message: "outcome not written", ...told, code });
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]).unref());
      }
    }
  };
  const touch = async (caller: ledger.Caller) => {
    const at = now();
    try {
      await sessions.touch(store, caller.sessionId, new Date(at), new Date(at + slidingMs));
    } catch (error) {
      const { code } = storeError(error) ?? {};
      log({ severity: "WARNING", message: "session use not recorded", sessionId: caller.sessionId, code });
    }
  };

  return {
    open: async (opening, hash) => {
      const caller = await twice(() => submit({ open: { opening, hash } }));
      if (caller && now() - caller.lastUsedAt.getTime() > TOUCH_MS) void unwritten.track(touch(caller));
      return caller;
    },
    openAnonymous: (opening) => twice(() => ledger.openAnonymous(store, opening)),
    close: (id, outcome) => unwritten.track(write({ id, outcome })),
    settled: (deadlineMs) => unwritten.settled(deadlineMs),
  };
}

/** What each piece of work gets; one that the store refuses is refused alone, not with its group. */
async function flush(store: Store, group: readonly Work[]): Promise<(ledger.Caller | null | StoreError)[]> {
  const openings: ledger.Keyed[] = [];
  const closings: ledger.Closing[] = [];
  for (const work of group) {
    if ("open" in work) openings.push(work.open);
    else closings.push(work.close);
  }
  try {
    const callers = await ledger.write(store, openings, closings);
    let next = 0;
    return group.map((work) => ("open" in work ? (callers[next++] ?? null) : null));
  } catch (error) {
    const failure = storeError(error) ?? new StoreError(error);
    if (!failure.permanent) return group.map(() => failure);
    if (group.length > 1) return (await Promise.all(group.map((work) => flush(store, [work])))).flat();
    // What is there already got through at an earlier try, whose answer was lost.
    if (failure.duplicate) return openings.length > 0 ? callersAgain(store, openings) : [null];
    return [failure];
  }
}

const callersAgain = (store: Store, openings: readonly ledger.Keyed[]): Promise<(ledger.Caller | null | StoreError)[]> =>
  ledger.callersOf(store, openings).catch((error) => openings.map(() => storeError(error) ?? new StoreError(error)));

/** What the store takes of any outcome. */
const withoutContent = (outcome: ledger.Outcome): ledger.Outcome => ({
  ...outcome,
  model: null,
  usage: null,
  upstreamRequestId: null,
  requestBody: null,
  responseBody: null,
});
