import { Breaker } from "./breaker.ts";
import type { Listener, Subscription } from "./bus.ts";
import { entryIn } from "./entry.ts";
import { type Attempt, Line } from "./line.ts";
import { Listeners } from "./listeners.ts";

/** Begins to subscribe to a channel; `deliver` gets each message. It reports through the attempt, and never throws. */
export type Dial = (channel: string, deliver: (message: string) => void) => Attempt;

type Channel = { listeners: Listeners; line: Line };

/** The channels that somebody on this instance listens to: one line each, shared by its listeners, and none without. */
export class Channels {
  readonly #dial: Dial;
  readonly #timeoutMs: number;
  readonly #onError: (error: unknown) => void;
  /** Apart from that of commands, which may well get through where subscriptions do not. */
  readonly #breaker: Breaker;
  readonly #channels = new Map<string, Channel>();

  constructor(dial: Dial, timeoutMs: number, onError: (error: unknown) => void) {
    this.#dial = dial;
    this.#timeoutMs = timeoutMs;
    this.#onError = onError;
    this.#breaker = new Breaker(timeoutMs);
  }

  /** Resolves when the server has acknowledged. Rejects with a `BusError`, and then the listener hears nothing any more. */
  async subscribe(name: string, listener: Listener): Promise<Subscription> {
    if (!this.#channels.has(name)) this.#breaker.assertClosed();
    const channel = this.#channels.get(name) ?? this.#open(name);
    const member = channel.listeners.add(listener);
    const close = () => {
      channel.listeners.remove(member);
      if (channel.listeners.size > 0 || this.#channels.get(name) !== channel) return;
      this.#channels.delete(name);
      channel.line.close();
    };
    try {
      if (!channel.line.isUp) await this.#breaker.run(() => channel.line.up());
    } catch (error) {
      close();
      throw error;
    }
    member.joined = true;
    return { renew: () => channel.line.renew(), close };
  }

  close(): void {
    for (const { line, listeners } of this.#channels.values()) {
      listeners.clear();
      line.close();
    }
    this.#channels.clear();
  }

  #open(name: string): Channel {
    const listeners = new Listeners(this.#onError);
    const deliver = (message: string) => {
      // In one piece with the acknowledgement, and heard before it: something may be missing between this and what came last.
      if (!line.isUp) listeners.missed();
      const entry = entryIn(message);
      // Whoever published something else may have pushed out a frame of ours; the log knows.
      if (entry) listeners.entry(entry);
      else listeners.missed();
    };
    const up = () => {
      this.#breaker.succeeded();
      listeners.missed();
    };
    const line: Line = new Line(() => this.#dial(name, deliver), this.#timeoutMs, up);
    const channel = { listeners, line };
    this.#channels.set(name, channel);
    return channel;
  }
}
