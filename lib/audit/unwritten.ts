/** Writes under way, for which a caller waits only so long. */
export type Unwritten = {
  readonly size: number;
  /** Resolves when the write is done, or when patience is over; the write goes on either way. It must not reject. */
  track(write: Promise<void>): Promise<void>;
  /** Resolves when no write is left, or rejects after the deadline with how many are. */
  settled(deadlineMs: number): Promise<void>;
};

type Waiting = { since: number; letGo(): void };

/** One timer serves all writes, so that a write which is done in time costs none; patience is over after 1 to 1.5 times its length. */
export function createUnwritten(patienceMs: number): Unwritten {
  const waiting = new Set<Waiting>();
  let armed = false;
  let onEmpty = () => {};

  const letGo = () => {
    armed = false;
    for (const write of waiting) if (performance.now() - write.since >= patienceMs) write.letGo();
    arm();
  };
  const arm = () => {
    if (armed || waiting.size === 0) return;
    armed = true;
    setTimeout(letGo, patienceMs / 2).unref();
  };
  return {
    get size() {
      return waiting.size;
    },
    track: (write) =>
      new Promise((resolve) => {
        const entry = { since: performance.now(), letGo: resolve };
        waiting.add(entry);
        arm();
        void write.then(() => {
          waiting.delete(entry);
          resolve();
          if (waiting.size === 0) onEmpty();
        });
      }),
    settled: async (deadlineMs) => {
      if (waiting.size === 0) return;
      await new Promise<void>((resolve, reject) => {
        // Tries to come do not keep the process alive; this does.
        const late = setTimeout(() => reject(new Error(`${waiting.size} writes not done`)), deadlineMs);
        onEmpty = () => {
          clearTimeout(late);
          resolve();
        };
      });
    },
  };
}
