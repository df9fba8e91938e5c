/** One member's share of a group's work. */
type Waiting<T, R> = { item: T; resolve(result: R): void; reject(error: Error): void };

/** Fewer in the group before are not worth waiting for again. */
const COMPANY = 4;
/** After so long without a flush nobody is waited for. */
const QUIET_MS = 20;

export type GroupOptions = {
  /** The most items of one flush. */
  size: number;
  /** How many flushes may be under way at once. */
  inFlight: number;
  /** The longest that an item waits for company while there is traffic, in milliseconds. */
  windowMs: number;
  now(): number;
};

/**
 * Group commit: items that arrive together are flushed together. An item that arrives in quiet goes out in the same turn of
 * the event loop; where the group before was a crowd, it waits for company, for at most the window. `flush` answers for each
 * item its result, or the error that its caller gets; it never rejects.
 */
export function grouped<T, R>(flush: (items: T[]) => Promise<(R | Error)[]>, options: GroupOptions): (item: T) => Promise<R> {
  let waiting: Waiting<T, R>[] = [];
  let scheduled = false;
  let running = 0;
  let last = { size: 0, at: Number.NEGATIVE_INFINITY };

  const schedule = () => {
    if (scheduled || running >= options.inFlight || waiting.length === 0) return;
    scheduled = true;
    const quiet = last.size < COMPANY || options.now() - last.at > QUIET_MS;
    if (quiet || waiting.length >= options.size) setImmediate(start);
    else setTimeout(start, options.windowMs);
  };
  const start = async () => {
    const group = waiting.slice(0, options.size);
    waiting = waiting.slice(options.size);
    scheduled = false;
    running++;
    schedule();
    const results = await flush(group.map(({ item }) => item));
    last = { size: group.length, at: options.now() };
    for (const [i, member] of group.entries()) {
      const result = results[i];
      if (result instanceof Error) member.reject(result);
      else member.resolve(result as R);
    }
    running--;
    schedule();
  };
  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      schedule();
    });
}
