import type { Entry, Listener } from "./bus.ts";

/** One listener's place. It hears of missed frames once it has joined, since before that it relies on nothing. */
export type Member = { listener: Listener; joined: boolean };

/** Those who listen to one chat. What one of them throws reaches neither the others nor whoever delivers. */
export class Listeners {
  readonly #members = new Set<Member>();
  readonly #onError: (error: unknown) => void;

  constructor(onError: (error: unknown) => void) {
    this.#onError = onError;
  }

  get size(): number {
    return this.#members.size;
  }

  add(listener: Listener): Member {
    const member = { listener, joined: false };
    this.#members.add(member);
    return member;
  }

  remove(member: Member): void {
    this.#members.delete(member);
  }

  clear(): void {
    this.#members.clear();
  }

  entry(entry: Entry): void {
    for (const { listener } of this.#members) this.#call(() => listener.entry(entry));
  }

  missed(): void {
    for (const { listener, joined } of this.#members) if (joined) this.#call(() => listener.missed());
  }

  #call(tell: () => void): void {
    try {
      tell();
    } catch (error) {
      this.#onError(error);
    }
  }
}
