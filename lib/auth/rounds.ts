/** Running work that is authorised again and again, by what allows it: a session, or a place in a chat. */
export type Rounds<K> = {
  /** Calls `end` soon after `key` stops being allowed, unless the answer was called before. */
  watch(key: K, end: () => void): () => void;
  /** Looks at all of it now. */
  check(): void;
  close(): void;
};

export type RoundsOptions<K> = {
  everyMs: number;
  /** Which keys are still allowed; one query for all of them. */
  allowed(keys: K[]): Promise<(key: K) => boolean>;
  /** Nobody can be refused by a store that is down; the next round asks again. */
  onError(error: unknown): void;
};

/** One query a round, and none while nothing lasts from one round to the next. */
export function createRounds<K>({ everyMs, allowed, onError }: RoundsOptions<K>): Rounds<K> {
  const watched = new Set<{ key: K; end(): void; since: number }>();
  let timer: NodeJS.Timeout | undefined;

  const round = async (leastMs: number) => {
    const lasting = [...watched].filter(({ since }) => performance.now() - since >= leastMs);
    if (lasting.length === 0) return;
    try {
      const isAllowed = await allowed(lasting.map(({ key }) => key));
      for (const work of lasting) if (!isAllowed(work.key) && watched.delete(work)) work.end();
    } catch (error) {
      onError(error);
    }
  };
  const schedule = () => {
    timer ??= setTimeout(async () => {
      await round(everyMs / 2);
      timer = undefined;
      if (watched.size > 0) schedule();
    }, everyMs).unref();
  };
  return {
    watch: (key, end) => {
      const work = { key, end, since: performance.now() };
      watched.add(work);
      schedule();
      return () => void watched.delete(work);
    },
    check: () => void round(0),
    close: () => clearTimeout(timer),
  };
}
