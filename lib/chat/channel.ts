import { BUS_OPTIONS, BusError, type Entry, type Subscription } from "../bus/bus.ts";
import type { Deps } from "../deps.ts";
import type { Viewer } from "../http/viewer.ts";
import { describeError } from "../log.ts";
import * as messages from "../repo/messages.ts";
import { Audience } from "./audience.ts";
import { historyFrames, isPiece, resetFrame } from "./frames.ts";
import { Replies, type Reply } from "./replies.ts";
import { settle } from "./settle.ts";
import { isAfter, parseTold } from "./told.ts";

/** After how long a running reply is quiet, and its log is read to see whether the line is dead. */
const QUIET_MS = 5_000;
/** How far back the store is asked while the bus is down, for what was committed late, and for how many messages. */
const OVERLAP_MS = 3_000;
const POLL_MOST = 100;
/** How many messages somebody gets whose place in the log is lost. */
const HISTORY = 100;
/** How long a message is waited for before the store is asked. */
const ASK_STORE_MS = 2_000;

type Needs = Pick<Deps, "bus" | "store" | "log" | "now"> & { onMembers(): void };

/**
 * One chat as this instance follows it: a mirror of the chat's log, for all who watch it here. Frames come by one subscription;
 * a gap between them is filled from the log, a log that is lost from the store, and while the bus is down the store is asked.
 */
export class Channel {
  readonly #deps: Needs;
  readonly #chatId: string;
  readonly #audience = new Audience();
  readonly #replies: Replies;
  #ready: Promise<void>;
  #subscription: Subscription | null = null;
  /** Where we are in the log. */
  #lastId: string | null = null;
  /** What came while the log was being read. */
  #waiting: Entry[] = [];
  #loading: Promise<void> | null = null;
  #again = false;
  /** When the log was read last, or we began; what came since is asked of the store where the bus is down. */
  #readAt: number;
  /** The bus is down, and the store was asked up to here. */
  #polled: number | null = null;
  /** The newest number that the store told of while the log had not. */
  #unheardSeq = 0;
  #closed = false;

  constructor(deps: Needs, chatId: string) {
    this.#deps = deps;
    this.#chatId = chatId;
    this.#replies = new Replies(
      (frame) => this.#audience.say(frame),
      (id) => void this.#guarded(() => this.#fetch(id)),
    );
    this.#readAt = deps.now();
    this.#ready = this.#load();
  }

  /** How many watch here. */
  get size(): number {
    return this.#audience.size;
  }

  /** Seats a viewer, who gets what came behind the frame they have seen; without one, or where it is forgotten, what is running. */
  async attach(viewer: Viewer, after: string | null): Promise<void> {
    await this.#ready;
    while (this.#loading) await this.#loading;
    if (after === null) this.#audience.seat(viewer, null, this.#replies.soFar(this.#lastId));
    else if (after === this.#lastId) this.#audience.seat(viewer, null);
    else if (!this.#audience.seat(viewer, after)) await this.#seatAnew(viewer);
  }

  /** The same for one who was sent something: no piece comes twice, for what has ended is said whole, and what runs begins anew. */
  async resume(viewer: Viewer, after: string): Promise<void> {
    await this.#ready;
    while (this.#loading) await this.#loading;
    const missed = after === this.#lastId ? [] : this.#audience.behind(after);
    if (!missed) return this.#seatAnew(viewer);
    this.#audience.seat(viewer, null, [...missed.filter((it) => !isPiece(it)), ...this.#replies.soFar(this.#lastId)]);
  }

  detach(viewer: Viewer): void {
    this.#audience.leave(viewer);
  }

  /** Resolves when a message is not being replied to any more. */
  async ended(messageId: string): Promise<void> {
    await this.#ready;
    for (;;) {
      const heard = this.#replies.untilEnded(messageId, ASK_STORE_MS);
      const message = await messages.find(this.#deps.store, { id: messageId, chatId: this.#chatId });
      if (message?.state !== "streaming") return;
      await heard;
    }
  }

  /** Looks after what may have gone wrong unheard: a bus that is down, a line that is dead, a producer that is gone. */
  async look(): Promise<void> {
    await this.#ready;
    await this.#guarded(async () => {
      if (this.#polled !== null) await this.#load();
      if (this.#polled !== null) return this.#poll();
      const nowMs = performance.now();
      const quiet = [...this.#replies.running.values()].filter((it) => nowMs - Math.max(it.heardMs, it.askedMs) >= QUIET_MS);
      if (quiet.length === 0) return;
      const heardUpTo = this.#lastId;
      await this.#load();
      if (this.#lastId !== heardUpTo) this.#subscription?.renew();
      for (const reply of quiet) await this.#settle(reply);
    });
  }

  /** Settles now what has lost its producer. */
  async settle(): Promise<void> {
    await this.#ready;
    await this.#guarded(async () => {
      for (const reply of [...this.#replies.running.values()]) await this.#settle(reply);
    });
  }

  /** What the store says is the chat's newest number. Where the log has it and it was not heard, or never gets it, the line is dead. */
  notice(lastSeq: number): void {
    if (lastSeq <= this.#replies.lastSeq) return;
    void this.#load();
    if (this.#unheardSeq > this.#replies.lastSeq) {
      this.#replies.lastSeq = lastSeq;
      this.#subscription?.renew();
    }
    this.#unheardSeq = lastSeq;
  }

  close(): void {
    this.#closed = true;
    this.#subscription?.close();
  }

  /** Reads the log from where we are, then what came meanwhile. One reading at a time; one more where it was asked for meanwhile. */
  #load(): Promise<void> {
    this.#again = this.#loading !== null;
    this.#loading ??= this.#read().finally(() => {
      this.#loading = null;
      if (this.#again && !this.#closed) void this.#load();
    });
    return this.#loading;
  }

  async #read(): Promise<void> {
    const { bus, log, now } = this.#deps;
    const chatId = this.#chatId;
    const startedAt = now();
    try {
      if (!this.#subscription) {
        const missed = () => void this.#load();
        this.#subscription = await bus.subscribe(chatId, { entry: (entry) => this.#hear(entry), missed });
        if (this.#closed) return this.#subscription.close();
        await this.#learnRunning();
      }
      const entries = (await bus.since(chatId, this.#lastId)) ?? (await this.#readAnew());
      for (const entry of entries) this.#take(entry);
      this.#polled = null;
      this.#readAt = startedAt;
    } catch (error) {
      if (!(error instanceof BusError)) log({ severity: "ERROR", message: "chat not followed", ...describeError(error) });
      this.#polled ??= this.#readAt - OVERLAP_MS;
    }
    for (const entry of this.#waiting.splice(0)) this.#take(entry);
  }

  /** The log is not the one that we knew: those who watch are told so, and what the store has, before what the log has. */
  async #readAnew(): Promise<Entry[]> {
    const page = await messages.page(this.#deps.store, this.#chatId, undefined, HISTORY);
    const entries = await this.#deps.bus.since(this.#chatId, null);
    this.#lastId = null;
    this.#audience.say(resetFrame());
    for (const frame of [...historyFrames(page), ...this.#replies.soFar(null)]) this.#audience.say(frame);
    this.#replies.settled(page);
    return entries ?? [];
  }

  #hear(entry: Entry): void {
    const follows = entry.prev === this.#lastId || entry.prev === null;
    if (!this.#loading && follows) {
      this.#take(entry);
      return;
    }
    if (!isAfter(entry.id, this.#lastId)) return;
    this.#waiting.push(entry);
    if (!this.#loading) void this.#load();
  }

  #take({ id, text }: Entry): void {
    if (!isAfter(id, this.#lastId)) return;
    this.#lastId = id;
    const told = parseTold(text);
    const ageMs = Math.max(0, this.#deps.now() - Number(id.split("-", 1)[0]));
    if (!told) return;
    this.#replies.tell(id, told, performance.now() - ageMs);
    if (told.t === "member") this.#deps.onMembers();
  }

  /** A viewer whose place is lost gets the store's messages, and what is said while they are read right behind them. */
  async #seatAnew(viewer: Viewer): Promise<void> {
    const running = this.#replies.soFar(this.#lastId);
    const release = this.#audience.hold(viewer);
    const page = await messages.page(this.#deps.store, this.#chatId, undefined, HISTORY);
    release([resetFrame(), ...historyFrames(page), ...running]);
  }

  async #learnRunning(): Promise<void> {
    const { store, now } = this.#deps;
    for (const message of await messages.running(store, this.#chatId)) {
      this.#replies.learn(message, performance.now() - Math.max(0, now() - message.createdAt.getTime()));
    }
  }

  async #poll(): Promise<void> {
    const { store, now } = this.#deps;
    const since = new Date(this.#polled ?? now());
    this.#polled = now() - OVERLAP_MS;
    for (const message of await messages.changedSince(store, this.#chatId, since, POLL_MOST)) this.#replies.learn(message);
  }

  async #fetch(id: string): Promise<void> {
    const message = await messages.find(this.#deps.store, { id, chatId: this.#chatId });
    if (message) this.#replies.learn(message);
    else this.#replies.forget(id);
  }

  /** A reply that is quiet: its end may have been missed, or its producer be gone. */
  async #settle(reply: Reply): Promise<void> {
    reply.askedMs = performance.now();
    await this.#fetch(reply.id);
    if (reply.askedMs - reply.heardMs < BUS_OPTIONS.leaseMs || !this.#replies.running.has(reply.id)) return;
    await settle(this.#deps, { id: reply.id, chatId: this.#chatId }, reply.text);
  }

  /** What fails here is tried again at the next look. */
  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#deps.log({ severity: "WARNING", message: "chat not looked after", ...describeError(error) });
    }
  }
}
