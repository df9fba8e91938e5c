import { setTimeout as sleep } from "node:timers/promises";
import type { Deps } from "../../lib/deps.ts";
import * as events from "../../lib/repo/events.ts";

const POLL_MS = 1_000;
/** How late an event may come into the log: instances write in groups, and their clocks differ. */
const LATE_MS = 5_000;

/**
 * The last `limit` events that match, then every one that ends, once, oldest first, until the signal. An event is in the log
 * before its request is served, and what most filters look at is written at its end: so the cursor is not the newest id but
 * what was still running when the log was last read.
 */
export async function* follow(
  { store, now, config }: Deps,
  filter: Omit<events.EventFilter, "limit">,
  limit: number,
  signal: AbortSignal,
): AsyncGenerator<events.EventRow[]> {
  let since = new Date(now() - config.upstream.timeoutMs);
  let { ended, running } = split(await events.progress(store, since, []));
  const latest = await events.search(store, { ...filter, limit });
  yield latest.filter(({ id, startedAt }) => ended.has(id) || startedAt < since).reverse();

  while (await waited(signal)) {
    const recent = await events.progress(store, since, running);
    const next = split(recent);
    const fresh = [...next.ended].filter((id) => !ended.has(id));
    if (fresh.length > 0) yield (await events.search(store, { ...filter, ids: fresh, limit: fresh.length })).reverse();
    ({ ended, running } = next);
    since = new Date(Math.max(since.getTime(), (recent.at(-1)?.startedAt.getTime() ?? 0) - LATE_MS));
  }
}

function split(events: readonly { id: string; endedAt: Date | null }[]) {
  const ids = (done: boolean) => events.filter(({ endedAt }) => (endedAt !== null) === done).map(({ id }) => id);
  return { ended: new Set(ids(true)), running: ids(false) };
}

/** False when the signal came first. */
async function waited(signal: AbortSignal): Promise<boolean> {
  await sleep(POLL_MS, undefined, { signal }).catch(() => {});
  return !signal.aborted;
}
