import { Redis } from "@upstash/redis";
import { Agent } from "undici";
import type { Bus, BusOptions } from "./bus.ts";
import { openRemote } from "./remote.ts";
import { Requests } from "./upstash-requests.ts";
import { subscribe } from "./upstash-stream.ts";

/**
 * The bus on Upstash: a command is an HTTP request, which is sent once (every write may be repeated by the caller), and a chat
 * that somebody listens to is a stream of its own.
 */
export function openUpstash({ url, token }: { url: string; token: string }, options: BusOptions): Bus {
  const base = url.replace(/\/+$/, "");
  const requests = new Requests(base, token, options.timeoutMs);
  const redis = new Plain(requests);
  const agent = new Agent({ connect: { timeout: options.timeoutMs } });
  return openRemote(
    {
      kind: "upstash",
      send: (command) => redis.exec(command as [string, ...string[]]),
      dial: (channel, deliver) => subscribe({ url: base, token, agent }, channel, deliver),
      // A request ends itself.
      late: () => {},
      close: async () => void (await Promise.all([requests.close(), agent.destroy()])),
    },
    options,
  );
}

/** The client without what it does on its own: it sends nothing again, sends nothing about us, and leaves answers as they are. */
class Plain extends Redis {
  constructor(requests: Requests) {
    super(requests);
    this.opts = { automaticDeserialization: false };
  }
}
