import { Redis } from "ioredis";

const KEEP_ALIVE_MS = 15_000;

/**
 * One connection to a Redis, made when it is asked for, and once more after it ended. Nothing waits in a queue while there is
 * none, and nothing is sent a second time.
 */
export class RedisConnection {
  readonly #url: string;
  readonly #timeoutMs: number;
  readonly #onOpen: (client: Redis) => void;
  #open: { client: Redis; ready: Promise<Redis> } | null = null;

  constructor(url: string, timeoutMs: number, onOpen: (client: Redis) => void = () => {}) {
    this.#url = url;
    this.#timeoutMs = timeoutMs;
    this.#onOpen = onOpen;
  }

  /** Resolves when commands can be sent, and rejects with the reason why not. */
  client(): Promise<Redis> {
    this.#open ??= this.#connect();
    return this.#open.ready;
  }

  /** Destroys the connection; what waits for an answer fails. */
  drop(): void {
    const open = this.#open;
    this.#open = null;
    if (!open) return;
    // It says goodbye first, which a dead line would never let it finish.
    open.client.disconnect();
    open.client.stream?.destroy();
  }

  #connect() {
    const client = new Redis(this.#url, {
      lazyConnect: true,
      retryStrategy: null,
      enableOfflineQueue: false,
      autoResubscribe: false,
      autoResendUnfulfilledCommands: false,
      enableReadyCheck: false,
      disableClientInfo: true,
      connectTimeout: this.#timeoutMs,
      keepAlive: KEEP_ALIVE_MS,
      protocol: 2,
    });
    let reason: Error | undefined;
    // Without a listener the driver prints its errors. They reach callers through what fails.
    client.on("error", (error) => {
      reason = error;
    });
    client.once("end", () => {
      if (this.#open?.client === client) this.#open = null;
    });
    this.#onOpen(client);
    const ready = greet(client).catch((error) => {
      if (this.#open?.client === client) this.drop();
      throw reason ?? error;
    });
    return { client, ready };
  }
}

/** Finds out whether there is a Redis that is ready; to answers of anything else the driver throws where nobody can catch it. */
async function greet(client: Redis): Promise<Redis> {
  await client.connect();
  if ((await client.ping()) !== "PONG") throw new Error("there is no Redis");
  return client;
}
