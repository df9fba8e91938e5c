import { Redis } from "@upstash/redis";
import { Agent } from "undici";
import type { Bus, BusOptions } from "./bus.ts";
import { openRemote } from "./remote.ts";
import { subscribe } from "./upstash-stream.ts";

/**
 * The bus on Upstash: a command is an HTTP request, which is sent once (every write may be repeated by the caller), and a chat
 * that somebody listens to is a stream of its own.
 */
export function openUpstash({ url, token }: { url: string; token: string }, options: BusOptions): Bus {
  const { timeoutMs } = options;
  const redis = new Redis({
    url,
    token,
    retry: { retries: 0 },
    signal: () => AbortSignal.timeout(timeoutMs),
    automaticDeserialization: false,
    responseEncoding: false,
    enableAutoPipelining: false,
    enableTelemetry: false,
  });
  const agent = new Agent({ connect: { timeout: timeoutMs } });
  const endpoint = { url: url.replace(/\/+$/, ""), token, agent };
  return openRemote(
    {
      kind: "upstash",
      send: (command) => redis.exec(command as [string, ...string[]]),
      dial: (channel, deliver) => subscribe(endpoint, channel, deliver),
      // The request aborts itself.
      late: () => {},
      close: () => agent.destroy(),
    },
    options,
  );
}
