import { BusError } from "./bus.ts";

const SHORTEST_MS = 500;
const LONGEST_MS = 5_000;

/** The server is well, and has something else at a key than we put there. */
export class Misfit extends Error {}

/** There was no answer in time. */
export class Late extends Error {}

/**
 * Keeps callers from waiting for a server that is down: after a failure everything fails at once for half a second, and then
 * until one trial succeeds, with pauses that grow to five seconds. Whatever goes wrong becomes a `BusError`.
 */
export class Breaker {
  readonly #timeoutMs: number;
  readonly #onLate: () => void;
  /** The length of the present pause; 0 while all is well. */
  #pauseMs = 0;
  #pausedUntil = 0;
  #trying = false;

  constructor(timeoutMs: number, onLate: () => void = () => {}) {
    this.#timeoutMs = timeoutMs;
    this.#onLate = onLate;
  }

  get isOpen(): boolean {
    return this.#pauseMs > 0 && (this.#trying || performance.now() < this.#pausedUntil);
  }

  /** Throws a `BusError` while open. */
  assertClosed(): void {
    if (this.isOpen) throw new BusError(new Error("it was down a moment ago"));
  }

  /** Rejects with a `BusError` within the time that is given, and at once while open. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    this.assertClosed();
    const isTrial = this.#pauseMs > 0;
    if (isTrial) this.#trying = true;
    try {
      const result = await within(this.#timeoutMs, work());
      this.succeeded();
      return result;
    } catch (error) {
      if (error instanceof Misfit) this.succeeded();
      else this.#failed(isTrial);
      if (error instanceof Late) this.#onLate();
      throw busError(error);
    } finally {
      if (isTrial) this.#trying = false;
    }
  }

  succeeded(): void {
    this.#pauseMs = 0;
  }

  /** What was under way when the pause began, and fails later, does not prolong it. */
  #failed(isTrial: boolean): void {
    if (this.#pauseMs > 0 && !isTrial) return;
    this.#pauseMs = Math.min(Math.max(this.#pauseMs * 2, SHORTEST_MS), LONGEST_MS);
    this.#pausedUntil = performance.now() + this.#pauseMs;
  }
}

/** The result, or `Late` when it takes longer. What comes of it after that is nobody's business. */
export function within<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Late(`no answer within ${timeoutMs} ms`)), timeoutMs);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Drivers quote the command in their errors, and a command holds what people wrote; that must not reach a log. */
export function busError(error: unknown): BusError {
  if (error instanceof BusError) return error;
  const { name, cause } = error instanceof Error ? error : new Error();
  if (cause instanceof SyntaxError) return new BusError(new Error(`${name}: the answer is not JSON`));
  return new BusError(new Error(errorText(cause instanceof Error ? cause : error)));
}

/** What a driver's error says, without the command. */
export function errorText(error: unknown): string {
  const text = error instanceof Error ? error.message || String((error as NodeJS.ErrnoException).code) : typeof error;
  return text.replace(/,? (?:command was|with args beginning with):.*$/s, "").slice(0, 200);
}
