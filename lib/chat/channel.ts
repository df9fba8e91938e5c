import { BUS_OPTIONS } from "../bus/bus.ts";
import type { Deps } from "../deps.ts";
import type { Frame } from "../http/frame.ts";
import type { Viewer } from "../http/viewer.ts";
import { describeError } from "../log.ts";
import type { ChatView } from "../repo/chats.ts";
import * as messages from "../repo/messages.ts";
import { Audience } from "./audience.ts";
import { historyFrames, isPiece, placeFrame, resetFrame } from "./frames.ts";
import { Mirror } from "./mirror.ts";
import { Replies, type Reply } from "./replies.ts";
import { settle } from "./settle.ts";
import { HISTORY, Stored } from "./stored.ts";
import type { Told } from "./told.ts";

/** After how long a running reply is quiet, and its log is read to see whether the line is dead. */
const QUIET_MS = 5_000;
/** How long a message is waited for before the store is asked. */
const ASK_STORE_MS = 2_000;

type Needs = Pick<Deps, "bus" | "store" | "log" | "now"> & { onMembers(): void };

/**
 * One chat as this instance follows it, for all who watch it here: frames come from its log, and from the store where that is
 * lost, or while the bus is down.
 */
export class Channel {
  readonly #deps: Needs;
  readonly #chatId: string;
  readonly #audience: Audience;
  readonly #replies: Replies;
  readonly #stored: Stored;
  readonly #mirror: Mirror;
  readonly #ready: Promise<void>;
  /** The store was asked up to here, while the bus was down. */
  #polled: number | null = null;
  /** When the chat was made that the store told of: its id may have been that of another one before. */
  #madeMs = 0;
  /**
   * Up to here nobody who watches has to hear anything: it was there before the first of them, or the store has told of it. Null
   * until the first of them comes.
   */
  #knownSeq: number | null = null;
  /** The newest number that the store told of while the log had not. */
  #unheardSeq = 0;

  constructor(deps: Needs, chatId: string) {
    this.#deps = deps;
    this.#chatId = chatId;
    this.#audience = new Audience(({ at }) => at !== null && at <= (deps.store.expiredAt()?.getTime() ?? 0));
    // No entry of a log has such an id, and no other channel.
    this.#say(placeFrame(`0-${deps.now()}`));
    this.#replies = new Replies(
      (frame) => this.#audience.say(frame),
      (id) => void this.#guarded(async () => void (await this.#stored.learn(id))),
    );
    this.#stored = new Stored(deps, chatId, this.#replies);
    this.#mirror = new Mirror(deps, chatId, {
      told: (id, told, writtenMs) => this.#tell(id, told, writtenMs),
      begun: () => this.#stored.learnRunning(),
      lost: () => this.#beginAnew(),
      unsure: (since) => this.#stored.learnSince(since),
    });
    this.#ready = this.#mirror.settled();
  }

  /**
   * Seats a viewer, who gets what came behind the frame they have seen; without one what is running, and where that is forgotten
   * the newest messages as well. What was cleared, as the store has it, nobody gets.
   */
  async attach(
    viewer: Viewer,
    after: string | null,
    chat: Pick<ChatView, "lastSeq" | "clearedSeq" | "createdAt">,
  ): Promise<void> {
    await this.#mirror.settled();
    this.#madeMs = Math.max(this.#madeMs, chat.createdAt.getTime());
    this.#clear(null, chat.clearedSeq ?? 0);
    this.#knownSeq ??= chat.lastSeq;
    if (after === null) this.#audience.seat(viewer, null, this.#present());
    else if (!this.#audience.seat(viewer, after)) await this.#seatAnew(viewer);
  }

  /** The same for one who was sent something: no piece comes twice, for what has ended is said whole, and what runs begins anew. */
  async resume(viewer: Viewer, after: string): Promise<void> {
    await this.#mirror.settled();
    const missed = this.#audience.behind(after);
    if (!missed) return this.#seatAnew(viewer);
    this.#audience.seat(viewer, null, [...missed.filter((it) => !isPiece(it)), ...this.#present()]);
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
      const mirror = this.#mirror;
      if (mirror.downSince !== null) await mirror.load();
      if (mirror.downSince !== null) return this.#poll(mirror.downSince);
      this.#polled = null;
      const nowMs = performance.now();
      const quiet = [...this.#replies.running.values()].filter((it) => nowMs - Math.max(it.heardMs, it.askedMs) >= QUIET_MS);
      if (quiet.length === 0) return;
      const heardUpTo = mirror.lastId;
      await mirror.load();
      if (mirror.lastId !== heardUpTo) mirror.renew();
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

  /**
   * What the store says is the chat's newest number, and up to which it was cleared. Where the log has the newest and it was not
   * heard, or never gets it, the line is dead; what the log does not have, the store has.
   */
  notice(lastSeq: number, clearedSeq: number): void {
    this.#clear(null, clearedSeq);
    const heardSeq = Math.max(this.#replies.lastSeq, this.#knownSeq ?? 0);
    if (lastSeq <= heardSeq) return;
    void this.#mirror.load();
    if (this.#unheardSeq > heardSeq) {
      this.#knownSeq = lastSeq;
      this.#mirror.renew();
      void this.#guarded(() => this.#stored.learnBehind(heardSeq));
    }
    this.#unheardSeq = lastSeq;
  }

  close(): void {
    this.#mirror.close();
  }

  #tell(id: string, told: Told, writtenMs: number): void {
    if (told.t === "cleared") this.#clear(id, told.upTo, told.made);
    else this.#replies.tell(id, told, writtenMs);
    if (told.t === "member") this.#deps.onMembers();
  }

  /** What was said up to a number is gone: those who watch begin anew, with what came later. */
  #clear(entryId: string | null, upTo: number | null, made = this.#madeMs): void {
    if (upTo !== null && upTo <= this.#replies.clearedSeq) return;
    const wasHeard = this.#replies.firstSeq <= Number(upTo);
    // That of an earlier chat takes back nothing that the store has told of this one since.
    const { clearedSeq } = this.#replies;
    this.#replies.clear(upTo);
    if (upTo === null && this.#knownSeq !== null) this.#knownSeq = 0;
    if (made < this.#madeMs) this.#replies.clearedSeq = Math.max(this.#replies.clearedSeq, clearedSeq);
    this.#audience.clear();
    this.#say(resetFrame(entryId), ...this.#replies.soFar(null));
    // Nothing of it was told here, and nobody was here, so that who comes with all that was told need not begin anew.
    if (entryId === null && !wasHeard && this.#knownSeq === null) this.#say(placeFrame(this.#audience.place));
    // What was said later, and ended before it was known that what came before is gone.
    if (upTo !== null && this.#replies.lastSeq > upTo && !this.#audience.isEmpty)
      void this.#guarded(async () => this.#say(...historyFrames(await this.#stored.history())));
  }

  /** The log is not the one that we knew: those who watch are told so, and what the store has, before what the log has. */
  async #beginAnew(): Promise<() => void> {
    const page = await this.#stored.history();
    return () => {
      this.#replies.keep(page, HISTORY);
      this.#say(resetFrame(), ...historyFrames(page), ...this.#replies.soFar(null));
      this.#replies.settled(page);
    };
  }

  /** A viewer whose place is lost gets the store's messages, and what is said while they are read right behind them. */
  async #seatAnew(viewer: Viewer): Promise<void> {
    const present = this.#present();
    const release = this.#audience.hold(viewer);
    release([resetFrame(), ...historyFrames(await this.#stored.history()), ...present]);
  }

  /** What is running, and with it where to resume from: whoever is cut off then misses nothing, though they have seen nothing yet. */
  #present(): Frame[] {
    const { place } = this.#audience;
    const running = this.#replies.soFar(place);
    return running.length > 0 ? running : [placeFrame(place)];
  }

  #say(...frames: Frame[]): void {
    for (const frame of frames) this.#audience.say(frame);
  }

  async #poll(downSince: number): Promise<void> {
    const startedAt = this.#deps.now();
    await this.#stored.learnSince(this.#polled ?? downSince);
    this.#polled = startedAt;
  }

  /** A reply that is quiet: its end may have been missed, or its producer be gone. */
  async #settle(reply: Reply): Promise<void> {
    reply.askedMs = performance.now();
    const message = await this.#stored.learn(reply.id);
    if (!message || reply.askedMs - reply.heardMs < BUS_OPTIONS.leaseMs || !this.#replies.running.has(reply.id)) return;
    await settle(this.#deps, message, reply.text);
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
