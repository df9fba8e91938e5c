import type { Requester, UpstashRequest, UpstashResponse } from "@upstash/redis";
import { Agent, request } from "undici";

/** A connection that was idle for so long is not used again. */
const IDLE_MS = 4_000;

/**
 * How `@upstash/redis` sends a command here: once, within the time given, and never on a connection that may be dead. One that
 * idled while the instance was frozen looks alive, and so do the others beside one that failed.
 */
export class Requests implements Requester {
  readonly #url: string;
  readonly #token: string;
  readonly #timeoutMs: number;
  #agent: Agent;
  #usedAt = 0;
  /** Which state of the database we know of, so that a replica does not answer from before our own writes. */
  #syncToken = "";

  constructor(url: string, token: string, timeoutMs: number) {
    this.#url = url;
    this.#token = token;
    this.#timeoutMs = timeoutMs;
    this.#agent = this.#newAgent();
  }

  request = async <T>({ body }: UpstashRequest): Promise<UpstashResponse<T>> => {
    if (performance.now() - this.#usedAt > IDLE_MS) this.#renew();
    this.#usedAt = performance.now();
    const agent = this.#agent;
    const { status, answer } = await this.#post(agent, JSON.stringify(body)).catch((error) => {
      if (agent === this.#agent) this.#renew();
      throw error;
    });
    this.#usedAt = performance.now();
    if (typeof answer.error === "string" || status === 200) return answer as UpstashResponse<T>;
    throw new Error(`a command was answered with ${status}`);
  };

  close(): Promise<void> {
    return this.#agent.destroy();
  }

  async #post(dispatcher: Agent, body: string) {
    const answer = await request(this.#url, {
      dispatcher,
      method: "POST",
      headers: {
        authorization: `Bearer ${this.#token}`,
        "content-type": "application/json",
        "upstash-sync-token": this.#syncToken,
      },
      body,
      signal: AbortSignal.timeout(this.#timeoutMs),
    });
    this.#syncToken = String(answer.headers["upstash-sync-token"] ?? this.#syncToken);
    return { status: answer.statusCode, answer: jsonObject(await answer.body.text()) };
  }

  #newAgent(): Agent {
    return new Agent({ connect: { timeout: this.#timeoutMs }, keepAliveTimeout: IDLE_MS });
  }

  /** What is under way ends on the old connections; nothing new begins on them. */
  #renew(): void {
    const old = this.#agent;
    this.#agent = this.#newAgent();
    // It has failed where the bus was closed meanwhile, which destroys it.
    old.close().catch(() => {});
  }
}

/** The message never quotes the answer: it may hold what people wrote. */
function jsonObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch {}
  throw new Error("the answer to a command is not JSON");
}
