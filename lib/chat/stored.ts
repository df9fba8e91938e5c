import type { Deps } from "../deps.ts";
import * as messages from "../repo/messages.ts";
import type { Replies } from "./replies.ts";

/** How many messages somebody gets whose place in the log is lost. */
export const HISTORY = 100;
/** How far back the store is asked for what the log has not told, as it may be committed late, and for how many messages. */
const OVERLAP_MS = 3_000;
const CHANGED_MOST = 100;

type Needs = Pick<Deps, "store" | "now">;

/** What the store has of a chat, where the log does not tell it. */
export class Stored {
  readonly #deps: Needs;
  readonly #chatId: string;
  readonly #replies: Replies;

  constructor(deps: Needs, chatId: string, replies: Replies) {
    this.#deps = deps;
    this.#chatId = chatId;
    this.#replies = replies;
  }

  /** The newest messages, the newest first. */
  history(): Promise<messages.MessageView[]> {
    return messages.page(this.#deps.store, this.#chatId, undefined, HISTORY);
  }

  /** Learns which replies are being made. */
  async learnRunning(): Promise<void> {
    const { store, now } = this.#deps;
    for (const message of await messages.running(store, this.#chatId)) {
      this.#replies.learn(message, performance.now() - Math.max(0, now() - message.createdAt.getTime()));
    }
  }

  /** Learns what changed since an instant, in milliseconds since 1970. */
  async learnSince(sinceMs: number): Promise<void> {
    const since = new Date(sinceMs - OVERLAP_MS);
    const changed = await messages.changedSince(this.#deps.store, this.#chatId, since, CHANGED_MOST);
    for (const message of changed) this.#replies.learn(message);
  }

  /** Learns what was said behind a number. */
  async learnBehind(seq: number): Promise<void> {
    for (const message of (await this.history()).reverse()) if (message.seq > seq) this.#replies.learn(message);
  }

  /** Learns of one message, or that there is none. */
  async learn(id: string): Promise<messages.MessageView | null> {
    const message = await messages.find(this.#deps.store, { id, chatId: this.#chatId });
    if (message) this.#replies.learn(message);
    else this.#replies.forget(id);
    return message;
  }
}
