import { randomBytes } from "node:crypto";
import { createLedger, type Ledger } from "./audit/ledger.ts";
import { createMembership, type Membership } from "./auth/membership.ts";
import { createPasswords, type Passwords } from "./auth/passwords.ts";
import { createRevocation, type Revocation } from "./auth/revocation.ts";
import type { Bus } from "./bus/bus.ts";
import { openBus } from "./bus/open.ts";
import { createGenerations, type Generations } from "./chat/generation.ts";
import { createLive, type Live } from "./chat/live.ts";
import type { Config } from "./config.ts";
import { createIds } from "./ids.ts";
import { createUpstream, OPENAI, type Upstream } from "./llm/upstream.ts";
import { createLog, describeError, type Log } from "./log.ts";
import { openStore } from "./store/open.ts";
import type { Store } from "./store/store.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";

/** What one instance is made of. Time, ids and randomness come from here, so that a test can set them. */
export type Deps = {
  readonly config: Config;
  readonly log: Log;
  /** Milliseconds since 1970. */
  now(): number;
  /** A new UUIDv7. */
  newId(): string;
  random(size: number): Buffer;
  readonly store: Store;
  readonly ledger: Ledger;
  readonly passwords: Passwords;
  readonly revocation: Revocation;
  readonly membership: Membership;
  readonly bus: Bus;
  readonly live: Live;
  readonly generations: Generations;
  /** Throws where the function has no upstream configured. */
  readonly upstream: Upstream;
  /** Null unless a collector is configured. */
  readonly telemetry: Telemetry | null;
  /** Waits for ends that are still to be written, up to the deadline, then lets go of every connection. */
  close(deadlineMs: number): Promise<void>;
};

export type Sources = Partial<Pick<Deps, "log" | "now" | "newId" | "random">> & {
  /** How often running work is authorised again. */
  authorizeEveryMs?: number;
  /** How often spans and metrics are sent. */
  telemetryEveryMs?: number;
};

/** How many group commits may be under way at once: SQLite works in this thread, the others wait on a network. */
const IN_FLIGHT = { sqlite: 1, postgres: 4, neon: 8 } as const;

/** Builds what an instance needs. Connections are opened when they are first used. */
export async function createDeps(config: Config, sources: Sources = {}): Promise<Deps> {
  const { log = createLog(), now = Date.now, newId = createIds(), random = randomBytes } = sources;
  const { expireMs } = config.chat;
  const expiredAt = () => (expireMs === 0 ? null : new Date(now() - expireMs));
  const telemetry = await openTelemetry(config, newId, log, sources.telemetryEveryMs);
  const opened: Store = { ...(await openStore(config.store)), expiredAt };
  const store = telemetry?.watchStore(opened) ?? opened;
  const { slidingMs } = config.session;
  const writer = createLedger({ store, log, now, slidingMs, inFlight: IN_FLIGHT[config.store.kind] });
  const ledger = telemetry?.watchLedger(writer) ?? writer;
  const passwords = createPasswords();
  const { authorizeEveryMs: everyMs } = sources;
  const rounds = { store, log, ...(everyMs !== undefined && { everyMs }) };
  const revocation = createRevocation({ ...rounds, now });
  const line = await openBus(config.bus, {
    onError: (error) => log({ severity: "ERROR", message: "not told on", ...describeError(error) }),
  });
  const bus = telemetry?.watchBus(line) ?? line;
  const live = createLive({ bus, store, log, now, onMembers: () => membership.check() });
  const membership: Membership = createMembership({ ...rounds, onChat: live.notice });
  let upstream: Upstream | undefined;
  const openUpstream = () => {
    if (upstream) return upstream;
    const plain = createUpstream(config.upstream);
    upstream = telemetry?.watchUpstream(plain) ?? plain;
    return upstream;
  };
  const generations = createGenerations({
    ...{ bus, store, log, now, random, config },
    get upstream() {
      return openUpstream();
    },
  });
  return {
    config,
    log,
    now,
    newId,
    random,
    store,
    ledger,
    passwords,
    revocation,
    membership,
    bus,
    live,
    generations,
    get upstream() {
      return openUpstream();
    },
    telemetry,
    close: async (deadlineMs) => {
      revocation.close();
      membership.close();
      live.close();
      const settled = ledger
        .settled(deadlineMs)
        .catch((error) => log({ severity: "ERROR", message: "stopped early", error: String(error) }));
      await Promise.all([settled, telemetry?.close(deadlineMs)]);
      await upstream?.close();
      await bus.close();
      await store.close();
    },
  };
}

/** Spans and metrics where a collector is configured; only then is anything of OpenTelemetry loaded. */
async function openTelemetry({ telemetry, upstream }: Config, newId: () => string, log: Log, everyMs: number | undefined) {
  if (!telemetry) return null;
  const { openOtel } = await import("./telemetry/otel.ts");
  const to = new URL(upstream.url ?? OPENAI);
  return openOtel({ ...telemetry, instance: newId(), upstream: to, log, ...(everyMs !== undefined && { everyMs }) });
}
