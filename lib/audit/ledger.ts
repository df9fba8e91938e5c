import type { Log } from "../log.ts";
import * as statements from "../repo/ledger.ts";
import * as sessions from "../repo/sessions.ts";
import { type Store, StoreError, storeError } from "../store/store.ts";
import { grouped } from "./group.ts";

/**
 * The audit log's writer, and so the door: an event exists before a request is served, and who is calling is what the event
 * says. Nothing is served that could not be written; an end that could not be written is kept and tried again.
 */
export type Ledger = {
  /** Opens an event for the token's user. Null: the token is not valid, and nothing was written. Throws `StoreError`. */
  open(opening: statements.Opening, tokenHash: string): Promise<statements.Caller | null>;
  /** Opens an event that belongs to nobody yet. Throws `StoreError`. */
  openAnonymous(opening: statements.Opening): Promise<void>;
  /** Completes an event. Resolves when it is written, or after `PATIENCE_MS`; the row then goes on being tried. */
  close(id: string, outcome: statements.Outcome): Promise<void>;
  /** Resolves when every end is written, or rejects after the deadline with how many are not. */
  settled(deadlineMs: number): Promise<void>;
};

const PATIENCE_MS = 2_000;
const RETRY_MS = [50, 200, 500, 1_000];
/** Ends that wait for a store that is down; beyond this the oldest are logged and given up. */
const BACKLOG = 20_000;
/** How long a session's use goes unrecorded, so that most requests write no session row. */
const TOUCH_MS = 3_600_000;

export type LedgerOptions = { store: Store; log: Log; now(): number; slidingMs: number; inFlight: number };

export function createLedger({ store, log, now, slidingMs, inFlight }: LedgerOptions): Ledger {
  const pending = new Set<Promise<void>>();
  const options = { size: 64, windowMs: 1, inFlight, now: () => performance.now() };

  const open = grouped(
    (group: { opening: statements.Opening; hash: string }[]) => once(() => statements.openAll(store, group)),
    options,
  );
  const close = grouped(async (group: { id: string; outcome: statements.Outcome }[]) => {
    try {
      await statements.closeAll(store, group);
    } catch (error) {
      // One row that the store will never take must not hold up the others.
      if (group.length === 1 || !storeError(error)?.permanent) throw error;
      await Promise.all(group.map((one) => closeWithRetries(one.id, one.outcome)));
    }
    return group.map(() => undefined);
  }, options);

  const closeWithRetries = async (id: string, outcome: statements.Outcome) => {
    for (let attempt = 0; ; attempt++) {
      try {
        return await close({ id, outcome });
      } catch (error) {
        const failure = storeError(error);
        if (!failure || failure.permanent || pending.size > BACKLOG) {
          log({ severity: "ERROR", message: "event not completed", requestId: id, status: outcome.status, code: failure?.code });
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]).unref());
      }
    }
  };
  const touch = (caller: statements.Caller) => {
    const at = now();
    if (at - caller.lastUsedAt.getTime() < TOUCH_MS) return;
    const touched = sessions.touch(store, caller.sessionId, new Date(at), new Date(at + slidingMs)).catch((error) => {
      log({
        severity: "WARNING",
        message: "session use not recorded",
        sessionId: caller.sessionId,
        code: storeError(error)?.code,
      });
    });
    void track(touched);
  };
  const track = (work: Promise<void>) => {
    pending.add(work);
    void work.finally(() => pending.delete(work));
    return work;
  };

  return {
    open: async (opening, hash) => {
      const caller = await open({ opening, hash });
      if (caller) touch(caller);
      return caller;
    },
    openAnonymous: (opening) => once(() => statements.openAnonymous(store, opening)),
    close: (id, outcome) => patiently(track(closeWithRetries(id, outcome))),
    settled: async (deadlineMs) => {
      const late = new Promise<"late">((resolve) => setTimeout(() => resolve("late"), deadlineMs).unref());
      while (pending.size > 0) {
        if ((await Promise.race([Promise.all(pending), late])) === "late") throw new Error(`${pending.size} ends not written`);
      }
    },
  };
}

/** A write over HTTP whose answer was lost is asked again once, with the same ids; a store that is down is not waited for. */
async function once<T>(write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    const failure = storeError(error) ?? new StoreError(error);
    if (failure.permanent) throw failure;
    return await write();
  }
}

async function patiently(work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const tired = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, PATIENCE_MS);
  });
  await Promise.race([work, tired]).finally(() => clearTimeout(timer));
}
