import { setTimeout as sleep } from "node:timers/promises";
import { vi } from "vitest";
import { type Bus, BusError, type Entry, type Listener } from "../../lib/bus/bus.ts";

/** Keeps what it is told. */
export class Recorder implements Listener {
  readonly entries: Entry[] = [];
  missedTimes = 0;

  entry(entry: Entry): void {
    this.entries.push(entry);
  }

  missed(): void {
    this.missedTimes++;
  }

  get texts(): string[] {
    return this.entries.map(({ text }) => text);
  }
}

/** A viewer: follows a log by what is delivered, and reads it where `prev` or `missed` tell of a gap. */
export class Reader implements Listener {
  readonly entries: Entry[] = [];
  /** How many entries came by themselves, and how often the log was read. */
  delivered = 0;
  fills = 0;
  readonly #bus: Bus;
  readonly #chat: string;
  #filling = false;
  #again = false;

  constructor(bus: Bus, chat: string) {
    this.#bus = bus;
    this.#chat = chat;
  }

  get last(): string | null {
    return this.entries.at(-1)?.id ?? null;
  }

  entry(entry: Entry): void {
    if (this.last !== null && !isBehind(entry.id, this.last)) return;
    if (this.#filling) this.#again = true;
    else if (entry.prev === this.last) {
      this.entries.push(entry);
      this.delivered++;
    } else this.missed();
  }

  missed(): void {
    this.#again = true;
    if (!this.#filling) void this.#fill();
  }

  /** In one turn it finds that there is no more to read and lets entries in again, so that none falls in between. */
  async #fill(): Promise<void> {
    this.#filling = true;
    while (this.#again) {
      this.#again = false;
      this.fills++;
      const behind = await untilAnswered(() => this.#bus.since(this.#chat, this.last));
      if (behind === null) throw new Error(`the log ends after ${this.last}`);
      this.entries.push(...behind);
    }
    this.#filling = false;
  }
}

/** Waits for what must come, as long as it may take on a busy machine. */
export const until = (condition: () => unknown) => vi.waitUntil(condition, { timeout: 15_000, interval: 10 });

/** Asks again until the bus is there. Between questions it waits as long as any caller might. */
export async function untilAnswered<T>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      await sleep(20);
    }
  }
}

function isBehind(id: string, other: string): boolean {
  const [[ms, seq], [otherMs, otherSeq]] = [id, other].map((it) => it.split("-").map(Number)) as [number[], number[]];
  return ms === otherMs ? Number(seq) > Number(otherSeq) : Number(ms) > Number(otherMs);
}
