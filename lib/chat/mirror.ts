import { BusError, type Entry, type Subscription } from "../bus/bus.ts";
import type { Deps } from "../deps.ts";
import { describeError } from "../log.ts";
import { isAfter, parseTold, type Told } from "./told.ts";

/** What is made of a chat's log. */
export type Reader = {
  /** An entry of the log, in its order, and when it was written by `performance.now()`. */
  told(id: string, told: Told, writtenMs: number): void;
  /** The log is followed from now on. */
  begun(): Promise<void>;
  /** The log is not the one that we knew. What this resolves to is called once that was read, before its first entry is told. */
  lost(): Promise<() => void>;
  /**
   * The log was empty when we knew it last, so that nothing shows whether it is the same: what was said since then, in
   * milliseconds since 1970, may be forgotten.
   */
  unsure(sinceMs: number): Promise<void>;
};

/**
 * The log of one chat as this instance follows it: entries come by one subscription, and a gap between them is filled from the
 * log. While that cannot be read nothing is told, and `downSince` says so.
 */
export class Mirror {
  /** Where we are in the log. */
  lastId: string | null = null;
  /** Since when nothing was read, in milliseconds since 1970, while the bus is down. */
  downSince: number | null = null;
  readonly #deps: Pick<Deps, "bus" | "log" | "now">;
  readonly #chatId: string;
  readonly #reader: Reader;
  #subscription: Subscription | null = null;
  #hasBegun = false;
  /** What came while the log was being read. */
  #waiting: Entry[] = [];
  #loading: Promise<void> | null = null;
  #again = false;
  /** When the log was read last, or we began. */
  #readAt: number;
  #closed = false;

  constructor(deps: Pick<Deps, "bus" | "log" | "now">, chatId: string, reader: Reader) {
    this.#deps = deps;
    this.#chatId = chatId;
    this.#reader = reader;
    this.#readAt = deps.now();
    void this.load();
  }

  /** Resolves when nothing is being read. */
  async settled(): Promise<void> {
    while (this.#loading) await this.#loading;
  }

  /** Reads the log from where we are, then what came meanwhile. One reading at a time; one more where it was asked for meanwhile. */
  load(): Promise<void> {
    this.#again = this.#loading !== null;
    this.#loading ??= this.#read().finally(() => {
      this.#loading = null;
      if (this.#again && !this.#closed) void this.load();
    });
    return this.#loading;
  }

  /** Makes a new subscription, because this one is suspected to be dead. */
  renew(): void {
    this.#subscription?.renew();
  }

  close(): void {
    this.#closed = true;
    this.#subscription?.close();
  }

  async #read(): Promise<void> {
    const { bus, log, now } = this.#deps;
    const startedAt = now();
    const wasEmpty = this.#hasBegun && this.lastId === null;
    try {
      if (!this.#subscription) {
        const missed = () => void this.load();
        this.#subscription = await bus.subscribe(this.#chatId, { entry: (entry) => this.#hear(entry), missed });
        if (this.#closed) return this.#subscription.close();
      }
      if (!this.#hasBegun) await this.#reader.begun();
      this.#hasBegun = true;
      const entries = (await bus.since(this.#chatId, this.lastId)) ?? (await this.#readAnew());
      if (wasEmpty) await this.#reader.unsure(this.#readAt);
      for (const entry of entries) this.#take(entry);
      this.downSince = null;
      this.#readAt = startedAt;
    } catch (error) {
      if (!(error instanceof BusError)) log({ severity: "ERROR", message: "chat not followed", ...describeError(error) });
      this.downSince ??= this.#readAt;
    }
    const waiting = this.#waiting.splice(0);
    // The log has that as well. Told before what was missed, it would hide it.
    if (this.downSince !== null || this.#again) return;
    for (const entry of waiting) this.#take(entry);
  }

  async #readAnew(): Promise<Entry[]> {
    const begin = await this.#reader.lost();
    const entries = await this.#deps.bus.since(this.#chatId, null);
    this.lastId = null;
    begin();
    return entries ?? [];
  }

  #hear(entry: Entry): void {
    const follows = entry.prev === this.lastId || entry.prev === null;
    if (!this.#loading && this.downSince === null && follows) {
      this.#take(entry);
      return;
    }
    if (!isAfter(entry.id, this.lastId)) return;
    this.#waiting.push(entry);
    if (!this.#loading) void this.load();
  }

  #take({ id, text }: Entry): void {
    if (!isAfter(id, this.lastId)) return;
    this.lastId = id;
    const told = parseTold(text);
    const ageMs = Math.max(0, this.#deps.now() - Number(id.split("-", 1)[0]));
    if (told) this.#reader.told(id, told, performance.now() - ageMs);
  }
}
