import { createHash } from "node:crypto";
import { Redis } from "ioredis";
import { vi } from "vitest";
import type { Bus, BusAddress, BusOptions } from "../../lib/bus/bus.ts";
import { openBus } from "../../lib/bus/open.ts";
import { startUpstashBridge, type UpstashBridge } from "../bridge/upstash.ts";
import { redisUrl } from "../support/redis.ts";

/** A bus under test, with what is behind it. */
export type Backend = {
  /** One more bus on the same data, but for memory, where it is one of its own. */
  open(options?: Partial<BusOptions>): Promise<Bus>;
  isShared: boolean;
  /** Everything that the chat has on the bus grows older by so much. */
  pass(chat: string, ms: number): Promise<void>;
  close(): Promise<void>;
};

/** A backend on a Redis, in a database that no other file uses, which is emptied. */
export type ServerBackend = Backend & { admin: Redis; bridge: UpstashBridge | null; address: BusAddress };

/** Long enough for a busy machine, where nothing is meant to fail. */
const PATIENT: Partial<BusOptions> = { timeoutMs: 10_000 };

export async function memoryBackend(): Promise<Backend> {
  vi.useFakeTimers({ toFake: ["performance"] });
  return {
    open: (options = {}) => openBus({ kind: "memory" }, options),
    isShared: false,
    pass: async (_chat, ms) => void vi.advanceTimersByTime(ms),
    close: async () => void vi.useRealTimers(),
  };
}

export const redisBackend = (database: number) =>
  serverBackend(database, async (url) => ({ address: { kind: "redis", url }, bridge: null }));

export const upstashBackend = (database: number) =>
  serverBackend(database, async (redis) => {
    const bridge = await startUpstashBridge(redis);
    return { address: { kind: "upstash", url: bridge.url, token: bridge.token }, bridge };
  });

async function serverBackend(
  database: number,
  start: (url: string) => Promise<{ address: BusAddress; bridge: UpstashBridge | null }>,
): Promise<ServerBackend> {
  const url = `${redisUrl}/${database}`;
  const admin = new Redis(url);
  await admin.flushdb();
  const { address, bridge } = await start(url);
  return {
    admin,
    bridge,
    address,
    open: (options = {}) => openBus(address, { ...PATIENT, ...options }),
    isShared: true,
    pass: async (chat, ms) => {
      for (const key of await admin.keys(`pg:{${hashed(chat)}}:*`)) {
        const left = (await admin.pttl(key)) - ms;
        if (left > 0) await admin.pexpire(key, left);
        else await admin.del(key);
      }
    },
    close: async () => {
      await bridge?.close();
      admin.disconnect();
    },
  };
}

/** How a chat is called on a server. */
export const hashed = (chat: string): string => createHash("sha256").update(chat).digest("base64url").slice(0, 22);
export const keysOf = (chat: string, generation = "") => ({
  log: `pg:{${hashed(chat)}}:log`,
  reply: `pg:{${hashed(chat)}}:gen:${generation}`,
  stop: `pg:{${hashed(chat)}}:stop:${generation}`,
  channel: `pg-${hashed(chat)}`,
});

export const newId = () => crypto.randomUUID();
/** A chat whose id is as bad as they come. */
export const newChat = () => `a chat/#?é {x}:* ${newId()}`;
