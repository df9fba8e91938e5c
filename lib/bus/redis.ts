import type { Redis } from "ioredis";
import type { Bus, BusOptions } from "./bus.ts";
import type { Attempt } from "./line.ts";
import { RedisConnection } from "./redis-connection.ts";
import { openRemote } from "./remote.ts";

/** The bus on a Redis over TCP: one connection for commands and one for all subscriptions, made when first used. */
export function openRedis(url: string, options: BusOptions): Bus {
  const commands = new RedisConnection(url, options.timeoutMs);
  const subscriptions = new Subscriptions(url, options.timeoutMs);
  return openRemote(
    {
      kind: "redis",
      send: async ([name = "", ...args]) => (await commands.client()).call(name, ...args),
      dial: (channel, deliver) => subscriptions.dial(channel, deliver),
      // A line that swallows one command swallows the next, and the driver would keep them all.
      late: () => commands.drop(),
      close: async () => {
        commands.drop();
        subscriptions.close();
      },
    },
    options,
  );
}

type Subscribed = { client: Redis; deliver(message: string): void; end(): void };

/** Subscriptions to any number of channels on one connection. */
class Subscriptions {
  readonly #connection: RedisConnection;
  readonly #channels = new Map<string, Subscribed>();

  constructor(url: string, timeoutMs: number) {
    this.#connection = new RedisConnection(url, timeoutMs, (client) => {
      client.on("message", (channel, message) => {
        const subscribed = this.#channels.get(channel);
        if (subscribed?.client === client) subscribed.deliver(message);
      });
      client.once("end", () => {
        for (const subscribed of this.#channels.values()) if (subscribed.client === client) subscribed.end();
      });
    });
  }

  /** Cutting one cuts all that share the connection; each of them is dialled again. */
  dial(channel: string, deliver: (message: string) => void): Attempt {
    let subscribed: Subscribed | undefined;
    let isLeft = false;
    let end = () => {};
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    const subscribe = async () => {
      const client = await this.#connection.client();
      if (isLeft) return;
      subscribed = { client, deliver, end };
      this.#channels.set(channel, subscribed);
      await client.subscribe(channel);
    };
    const leave = () => {
      // A second time it would take the channel from the attempt that has it by then.
      if (isLeft) return;
      isLeft = true;
      end();
      if (!subscribed) return;
      this.#channels.delete(channel);
      // A connection that is gone has no subscriptions.
      subscribed.client.unsubscribe(channel).catch(() => {});
    };
    const cut = () => {
      this.#connection.drop();
      end();
    };
    return { up: subscribe(), over, leave, cut };
  }

  close(): void {
    this.#connection.drop();
  }
}
