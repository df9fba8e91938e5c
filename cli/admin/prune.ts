import { setTimeout as sleep } from "node:timers/promises";
import * as events from "../../lib/repo/events.ts";
import * as expiry from "../../lib/repo/expiry.ts";
import * as sessions from "../../lib/repo/sessions.ts";
import * as throttles from "../../lib/repo/throttles.ts";
import * as tickets from "../../lib/repo/tickets.ts";
import { type Format, type Listing, printer } from "../print/printer.ts";
import { withDeps } from "./with-deps.ts";

const BATCH = 500;
const PROGRESS_MS = 1_000;
/** Longer than any window or delay that a counter of sign-ins serves. */
const THROTTLES_KEPT_MS = 86_400_000;

type Pruned = { events: number; messages: number; sessions: number; tickets: number; throttles: number };
const listing: Listing<Pruned> = {
  fields: ["events", "messages", "sessions", "tickets", "throttles"],
  columns: [
    { title: "EVENTS", text: (gone) => gone.events, right: true },
    { title: "EXPIRED MESSAGES", text: (gone) => gone.messages, right: true },
    { title: "EXPIRED SESSIONS AND KEYS", text: (gone) => gone.sessions, right: true },
    { title: "EXPIRED TICKETS", text: (gone) => gone.tickets, right: true },
    { title: "SIGN-IN COUNTERS", text: (gone) => gone.throttles, right: true },
  ],
};

/**
 * Deletes events older than RETENTION_DAYS, messages older than EXPIRE_HOURS, expired sessions and tickets, and old sign-in
 * counters, and prints how many of each.
 */
export async function prune({ format }: { format: Format }): Promise<void> {
  await withDeps(async ({ store, config, now }) => {
    const at = now();
    const { retentionMs } = config.audit;
    if (retentionMs === 0) console.error("RETENTION_DAYS is 0: events are kept for ever.");
    const old = (limit: number) => events.prune(store, new Date(at - retentionMs), limit);
    const expired = (limit: number) => sessions.pruneExpired(store, new Date(at), limit);
    const unused = (limit: number) => tickets.pruneExpired(store, new Date(at), limit);
    const gone = {
      events: retentionMs === 0 ? 0 : await inBatches("events", old),
      messages: await inBatches("expired messages", (limit) => expiry.prune(store, limit)),
      sessions: await inBatches("expired sessions", expired),
      tickets: await inBatches("expired tickets", unused),
      throttles: await throttles.prune(store, new Date(at - THROTTLES_KEPT_MS)),
    };
    printer(format, listing)([gone]);
  });
}

/** Between two batches the store is left alone for as long as the last one took, so that a server's writes find their turn. */
async function inBatches(what: string, prune: (limit: number) => Promise<number>): Promise<number> {
  let total = 0;
  let toldAt = performance.now();
  for (;;) {
    const startedAt = performance.now();
    const gone = await prune(BATCH);
    total += gone;
    if (gone < BATCH) return total;
    const endedAt = performance.now();
    if (endedAt - toldAt >= PROGRESS_MS) {
      console.error(`${total} ${what} deleted so far`);
      toldAt = endedAt;
    }
    await sleep(endedAt - startedAt);
  }
}
