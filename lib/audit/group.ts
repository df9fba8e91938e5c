/** One member's share of a group's work. */
type Waiting<T, R> = { item: T; resolve(result: R): void; reject(error: unknown): void };

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
 * the event loop; under traffic it waits for at most the window. Each caller gets its own result, or the group's error.
 */
export function grouped<T, R>(flush: (items: T[]) => Promise<R[]>, options: GroupOptions): (item: T) => Promise<R> {
  let waiting: Waiting<T, R>[] = [];
  let scheduled = false;
  let running = 0;
  let lastFlushAt = Number.NEGATIVE_INFINITY;

  const schedule = () => {
    if (scheduled || running >= options.inFlight || waiting.length === 0) return;
    scheduled = true;
    const quiet = options.now() - lastFlushAt >= options.windowMs;
    if (quiet || waiting.length >= options.size) setImmediate(start);
    else setTimeout(start, options.windowMs);
  };
  const start = () => {
    scheduled = false;
    const group = waiting.slice(0, options.size);
    waiting = waiting.slice(options.size);
    running++;
    lastFlushAt = options.now();
    flush(group.map(({ item }) => item))
      .then(
        (results) => {
          for (const [i, member] of group.entries()) member.resolve(results[i] as R);
        },
        (error) => {
          for (const member of group) member.reject(error);
        },
      )
      .finally(() => {
        running--;
        schedule();
      });
    schedule();
  };
  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      schedule();
    });
}
