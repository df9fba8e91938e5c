/** One frame in a chat's log. `prev` is the id of the frame before it, or null for the first: what tells a reader of a gap. */
export type Entry = { id: string; prev: string | null; text: string };

/** Who writes a frame of a reply, so that a write that is repeated, or comes too late, changes nothing. */
export type Author = {
  /** The message that is being replied to. */
  generation: string;
  /** The one producer of that reply; a new id for each. */
  producer: string;
  /** The frame's number within the reply, from 1. A number that was seen is not appended again. */
  n: number;
  /** True where the frame says all there is to know of the reply so far, so that nothing before it need be in the log. */
  opens: boolean;
};

/** What became of a frame, and who asked for the reply to be stopped. */
export type Appended = {
  /**
   * `appended`: it is in the log. `seen`: its number was there before, or there was only a lease to renew. `taken`: the reply
   * was settled by somebody else in the meantime, or is another producer's. `forgotten`: the bus knows nothing of this reply
   * (its lease ran out, or the bus lost its memory), so that only a frame that `opens` is taken.
   */
  status: "appended" | "seen" | "taken" | "forgotten";
  /** The entry's, also where the frame that was seen is the last one that was appended. */
  id: string | null;
  stoppedBy: string | null;
};

export type Listener = {
  /** A frame, in the order of the log. */
  entry(entry: Entry): void;
  /** Frames may have been missed: the line was down, or is new. Read the log. */
  missed(): void;
};

export type Subscription = {
  /** Makes a new line, because this one is suspected to be dead. `missed` follows when it stands. */
  renew(): void;
  close(): void;
};

/**
 * What instances tell each other: a log of frames per chat, whose order is the order of delivery, and a lease on each reply
 * that is being written. It may lose everything at any time; the store is the truth. Every method but `subscribe`'s listener
 * rejects with a `BusError` when the bus cannot be reached, within `timeoutMs`, and at once while it is known to be down.
 */
export type Bus = {
  readonly kind: "memory" | "redis" | "upstash";
  /**
   * In one step: drops the frame where it was seen or its reply taken, else adds it to the chat's log, delivers it, and renews
   * the reply's lease. Answers also who wants the reply stopped. `text` is one line; null renews the lease alone. After a
   * `BusError` the frame may be in the log or not: it can be repeated, and without an author it may then be there twice.
   */
  append(chat: string, text: string | null, author?: Author): Promise<Appended>;
  /** The log of a chat behind an entry, or all of it (`null`). Null: that entry is not in the log any more. */
  since(chat: string, after: string | null): Promise<Entry[] | null>;
  /** Resolves when deliveries have begun, maybe just after the first; what comes later is never missed without `missed`. */
  subscribe(chat: string, listener: Listener): Promise<Subscription>;
  /** Asks the producer of a reply to stop; it learns of it with its next `append`. */
  stop(chat: string, generation: string, userId: string): Promise<void>;
  /**
   * Takes a reply whose lease ran out, so that its producer can add nothing more. False while it is held, or somebody was
   * faster. Who takes it holds it for a lease: if nothing comes of that, or the answer was lost, it can be taken once more.
   */
  take(chat: string, generation: string): Promise<boolean>;
  /**
   * In one step: empties a chat's log, settles these replies, so that their producers can add nothing more, and adds and delivers
   * a line that says so.
   */
  clear(chat: string, generations: readonly string[], text: string): Promise<void>;
  ping(): Promise<void>;
  close(): Promise<void>;
};

export type BusOptions = {
  /** How long a reply is its producer's without a sign of life. */
  leaseMs: number;
  /** How long a frame is kept in a log, and how many of them. */
  logMs: number;
  logLength: number;
  /** How long the bus may take to answer. */
  timeoutMs: number;
  /** Gets what a listener throws, which harms neither the bus nor other listeners. Without it, it is an uncaught exception. */
  onError(error: unknown): void;
};

export const BUS_OPTIONS: BusOptions = {
  leaseMs: 10_000,
  logMs: 3_600_000,
  logLength: 1_024,
  timeoutMs: 1_000,
  onError: (error) =>
    queueMicrotask(() => {
      throw error;
    }),
};

/** The bus could not be reached, or did not answer in time. */
export class BusError extends Error {
  override readonly name = "BusError";
  constructor(cause: unknown) {
    super("The bus did not answer.", { cause });
  }
}

export type BusAddress = { kind: "memory" } | { kind: "redis"; url: string } | { kind: "upstash"; url: string; token: string };
