import { randomBytes, randomFillSync } from "node:crypto";
import { V7Generator } from "uuidv7";
import { createLedger, type Ledger } from "./audit/ledger.ts";
import { createMembership, type Membership } from "./auth/membership.ts";
import { createPasswords, type Passwords } from "./auth/passwords.ts";
import { createRevocation, type Revocation } from "./auth/revocation.ts";
import type { Bus } from "./bus/bus.ts";
import { openBus } from "./bus/open.ts";
import { createGenerations, type Generations } from "./chat/generation.ts";
import { createLive, type Live } from "./chat/live.ts";
import type { Config } from "./config.ts";
import { createUpstream, type Upstream } from "./llm/upstream.ts";
import { createLog, describeError, type Log } from "./log.ts";
import { openStore } from "./store/open.ts";
import type { Store } from "./store/store.ts";

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
  /** Waits for ends that are still to be written, up to the deadline, then lets go of every connection. */
  close(deadlineMs: number): Promise<void>;
};

export type Sources = Partial<Pick<Deps, "log" | "now" | "newId" | "random">> & {
  /** How often running work is authorised again. */
  authorizeEveryMs?: number;
};

/** How many group commits may be under way at once: SQLite works in this thread, the others wait on a network. */
const IN_FLIGHT = { sqlite: 1, postgres: 4, neon: 8 } as const;

/** Builds what an instance needs. Connections are opened when they are first used. */
export async function createDeps(config: Config, sources: Sources = {}): Promise<Deps> {
  const { log = createLog(), now = Date.now, newId = createIds(), random = randomBytes } = sources;
  const { expireMs } = config.chat;
  const expiredAt = () => (expireMs === 0 ? null : new Date(now() - expireMs));
  const store = { ...(await openStore(config.store)), expiredAt };
  const { slidingMs } = config.session;
  const ledger = createLedger({ store, log, now, slidingMs, inFlight: IN_FLIGHT[config.store.kind] });
  const passwords = createPasswords();
  const { authorizeEveryMs: everyMs } = sources;
  const rounds = { store, log, ...(everyMs !== undefined && { everyMs }) };
  const revocation = createRevocation({ ...rounds, now });
  const bus = await openBus(config.bus, {
    onError: (error) => log({ severity: "ERROR", message: "not told on", ...describeError(error) }),
  });
  const live = createLive({ bus, store, log, now, onMembers: () => membership.check() });
  const membership: Membership = createMembership({ ...rounds, onChat: live.notice });
  let upstream: Upstream | undefined;
  const openUpstream = () => {
    upstream ??= createUpstream(config.upstream);
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
    close: async (deadlineMs) => {
      revocation.close();
      membership.close();
      live.close();
      await ledger
        .settled(deadlineMs)
        .catch((error) => log({ severity: "ERROR", message: "stopped early", error: String(error) }));
      await upstream?.close();
      await bus.close();
      await store.close();
    },
  };
}

/** UUIDv7, with its random bits drawn in bulk: one id a request is on the path of all of them. */
function createIds(): () => string {
  const pool = new Uint32Array(1_024);
  let next = pool.length;
  const nextUint32 = () => {
    if (next === pool.length) {
      randomFillSync(pool);
      next = 0;
    }
    return pool[next++] as number;
  };
  const generator = new V7Generator({ nextUint32 });
  return () => generator.generate().toString();
}
