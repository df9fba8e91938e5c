import { Late, within } from "./breaker.ts";

/** One attempt at a subscription on a server. */
export type Attempt = {
  /** Resolves with the server's acknowledgement. Never rejects after it has resolved. */
  up: Promise<void>;
  /** Resolves when it is over, however that came, and at the latest after `leave` or `cut`. */
  over: Promise<void>;
  /** Ends the subscription in good order. */
  leave(): void;
  /** Destroys the connection that it uses. */
  cut(): void;
};

const SHORTEST_MS = 50;
const LONGEST_MS = 3_000;

/**
 * A subscription that is made again whenever it ends, until it is closed. The pauses between attempts grow from 50 ms to three
 * seconds, and begin anew once a line stood for longer than the pause before it.
 */
export class Line {
  readonly #dial: () => Attempt;
  readonly #timeoutMs: number;
  readonly #onUp: () => void;
  #attempt: Attempt | null = null;
  #isUp = false;
  #isClosed = false;
  #isRenewed = false;
  #endPause = () => {};
  #waiting: { resolve(): void; reject(error: unknown): void }[] = [];

  constructor(dial: () => Attempt, timeoutMs: number, onUp: () => void) {
    this.#dial = dial;
    this.#timeoutMs = timeoutMs;
    this.#onUp = onUp;
    void this.#keep();
  }

  get isUp(): boolean {
    return this.#isUp;
  }

  /** Resolves when the line stands; rejects when the attempt that is under way, or made now, fails. */
  up(): Promise<void> {
    if (this.#isUp) return Promise.resolve();
    this.#endPause();
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  renew(): void {
    if (this.#isUp) {
      this.#isUp = false;
      this.#isRenewed = true;
      this.#attempt?.cut();
    } else this.#endPause();
  }

  close(): void {
    this.#isClosed = true;
    this.#isUp = false;
    this.#attempt?.leave();
    this.#endPause();
    this.#answer(({ reject }) => reject(new Error("closed")));
  }

  async #keep(): Promise<void> {
    let pauseMs = SHORTEST_MS;
    while (!this.#isClosed) {
      const stoodMs = await this.#stand();
      if (stoodMs > pauseMs) pauseMs = SHORTEST_MS;
      if (!this.#isRenewed) {
        await this.#pause(pauseMs);
        pauseMs = Math.min(pauseMs * 2, LONGEST_MS);
      }
      this.#isRenewed = false;
    }
  }

  /** One attempt, to its end: for how many milliseconds it stood. */
  async #stand(): Promise<number> {
    const attempt = this.#dial();
    this.#attempt = attempt;
    try {
      await within(this.#timeoutMs, attempt.up);
    } catch (error) {
      if (error instanceof Late) attempt.cut();
      else attempt.leave();
      this.#answer(({ reject }) => reject(error));
      return 0;
    }
    const since = performance.now();
    if (this.#isClosed) {
      attempt.leave();
    } else {
      this.#isUp = true;
      this.#answer(({ resolve }) => resolve());
      this.#onUp();
    }
    await attempt.over;
    this.#isUp = false;
    return performance.now() - since;
  }

  async #pause(ms: number): Promise<void> {
    if (this.#isClosed) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#endPause = () => {};
  }

  #answer(tell: (waiting: { resolve(): void; reject(error: unknown): void }) => void): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const one of waiting) tell(one);
  }
}
