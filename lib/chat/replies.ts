import type { Frame } from "../http/frame.ts";
import type { MessageView } from "../repo/messages.ts";
import { changeFrame, endingFrame, type Name, Named, nameOf } from "./frames.ts";
import type { Begun, Cleared, Deleted, Delta, Ended, Told } from "./told.ts";

/** A reply that is being made, as far as it was heard. */
export type Reply = {
  id: string;
  seq: number;
  prompt: string | null;
  named: Named;
  text: string;
  /** False where something before was not heard, so that only the end can say all of it. */
  whole: boolean;
  /** When it was last heard of, and last asked about, by `performance.now()`. */
  heardMs: number;
  askedMs: number;
};

/** Messages whose end is remembered, so that nothing of them is said again. */
const MOST_ENDED = 1_024;

/** What is known of a chat's replies, and the frames that follow from what the log tells of them. */
export class Replies {
  readonly running = new Map<string, Reply>();
  /** The highest number that was heard, and the lowest that was not cleared since. */
  lastSeq = 0;
  firstSeq = Number.POSITIVE_INFINITY;
  /** Messages up to this number were cleared: whoever still tells of them is not heard. */
  clearedSeq = 0;
  readonly #say: (frame: Frame) => void;
  /** Reads a message whose end did not say all of it. */
  readonly #fetch: (id: string) => void;
  /** The number with it, because an id may be given again to a later message. */
  readonly #ended = new Map<string, number>();
  readonly #deleted = new Set<string>();
  readonly #waiting = new Set<{ id: string; done(): void }>();

  constructor(say: (frame: Frame) => void, fetch: (id: string) => void) {
    this.#say = say;
    this.#fetch = fetch;
  }

  /** What an entry of the log tells, which was written at `heardMs` of `performance.now()`. */
  tell(entryId: string, told: Exclude<Told, Cleared>, heardMs: number): void {
    if (told.t === "begin") this.#begin(entryId, told, heardMs);
    else if (told.t === "delta") this.#add(entryId, told, heardMs);
    else if (told.t === "end") this.#end(entryId, told);
    else if (told.t === "deleted") this.#delete(entryId, told);
    else this.#say(changeFrame(entryId, told));
  }

  /** A message as the store has it, where the log has not told of it. */
  learn(message: MessageView, heardMs = performance.now()): void {
    const { id, seq, reply, state, stoppedBy: by, errorCode: code } = message;
    this.lastSeq = Math.max(this.lastSeq, seq);
    const name = nameOf(message);
    if (state !== "streaming") this.#end(null, { ...name, t: "end", seq, reply, state, by, code });
    else if (!this.running.has(id) && !this.#isOver(id, seq)) this.#start({ ...name, seq, text: reply, whole: false, heardMs });
  }

  /** Forgets what was cleared, all of it where the chat is gone (null); nothing more is said of it, and nobody waits for it. */
  clear(upTo: number | null): void {
    this.clearedSeq = upTo ?? 0;
    this.lastSeq = upTo === null ? 0 : Math.max(this.lastSeq, upTo);
    this.firstSeq = Number.POSITIVE_INFINITY;
    for (const { id, seq } of this.running.values()) {
      if (upTo !== null && seq > upTo) continue;
      this.forget(id);
      this.#wake(id);
    }
    if (upTo === null) this.#ended.clear();
    this.#deleted.clear();
  }

  /** Of running replies, those that a page of the newest messages would have, and has not, are gone: deleted, or cleared. */
  keep(page: readonly MessageView[], most: number): void {
    const from = page.length < most ? 0 : (page.at(-1)?.seq ?? 0);
    for (const { id, seq } of this.running.values()) {
      if (seq < from || page.some((it) => it.id === id && it.seq === seq)) continue;
      this.forget(id);
      this.#wake(id);
    }
  }

  /** What somebody who comes now is sent of running replies. The last frame carries the id that is given. */
  soFar(place: string | null): Frame[] {
    const running = [...this.running.values()];
    return running.flatMap(({ named, text }, i) => {
      const id = i === running.length - 1 ? place : null;
      return text === "" ? [named.begins(id)] : [named.begins(), named.adds(id, text)];
    });
  }

  /** Messages that were said in another way. */
  settled(page: readonly MessageView[]): void {
    for (const { id, seq, state } of page) if (state !== "streaming") this.forget(id, seq);
  }

  /** A message of which nothing more is to be said. */
  forget(id: string, seq = this.running.get(id)?.seq ?? this.lastSeq): void {
    this.running.delete(id);
    this.#ended.delete(id);
    this.#ended.set(id, seq);
    if (this.#ended.size > MOST_ENDED) this.#ended.delete(this.#ended.keys().next().value as string);
  }

  /** Whether nothing of it is to be said any more. */
  #isOver(id: string, seq: number): boolean {
    return seq <= this.clearedSeq || seq <= (this.#ended.get(id) ?? -1);
  }

  /** Resolves when the message's end is heard, or after so long. */
  untilEnded(id: string, mostMs: number): Promise<void> {
    return new Promise((done) => {
      const waiting = { id, done };
      this.#waiting.add(waiting);
      setTimeout(() => {
        this.#waiting.delete(waiting);
        done();
      }, mostMs).unref();
    });
  }

  #begin(entryId: string, begun: Begun, heardMs: number): void {
    const { id, seq, prompt, reply } = begun;
    this.lastSeq = Math.max(this.lastSeq, seq);
    if (this.#isOver(id, seq)) return;
    this.firstSeq = Math.min(this.firstSeq, seq);
    const known = this.#known(id, seq);
    if (known?.whole && reply.startsWith(known.text)) {
      if (reply.length > known.text.length) this.#say(known.named.adds(entryId, reply.slice(known.text.length)));
      Object.assign(known, { text: reply, heardMs });
      return;
    }
    const name = { ...begun, prompt: prompt ?? known?.prompt ?? null, at: begun.at ?? atOf(entryId) };
    const started = this.#start({ ...name, text: reply, whole: true, heardMs });
    this.#say(started.named.begins(reply === "" ? entryId : null));
    if (reply !== "") this.#say(started.named.adds(entryId, reply));
  }

  #start({ id, seq, prompt, text, whole, heardMs, ...name }: Omit<Reply, "named" | "askedMs"> & Name): Reply {
    const reply = { id, seq, prompt, text, whole, heardMs, named: new Named({ id, prompt, ...name }), askedMs: heardMs };
    this.running.set(id, reply);
    this.#deleted.delete(id);
    return reply;
  }

  /** A running reply, unless it is that of an earlier message with the same id. */
  #known(id: string, seq: number): Reply | undefined {
    const reply = this.running.get(id);
    return reply?.seq === seq ? reply : undefined;
  }

  #add(entryId: string, { id, at, text }: Delta, heardMs: number): void {
    const reply = this.running.get(id);
    if (!reply) return;
    reply.heardMs = heardMs;
    if (at > reply.text.length) reply.whole = false;
    const news = text.slice(Math.max(0, reply.text.length - at));
    if (!reply.whole || news === "") return;
    reply.text += news;
    this.#say(reply.named.adds(entryId, news));
  }

  #end(entryId: string | null, ended: Ended): void {
    const { id, seq } = ended;
    this.lastSeq = Math.max(this.lastSeq, seq);
    if (this.#isOver(id, seq)) return;
    this.firstSeq = Math.min(this.firstSeq, seq);
    const known = this.#known(id, seq);
    const prompt = ended.prompt ?? known?.prompt ?? null;
    if (prompt === null || ended.reply === null) {
      this.#fetch(id);
      return;
    }
    this.forget(id, seq);
    const at = ended.at ?? atOf(entryId);
    const named = known && known.prompt === prompt ? known.named : new Named({ ...ended, prompt, at });
    const before = endingFrame({ ...ended, at });
    if (before) this.#say(before);
    this.#say(named.ends(entryId, ended.reply));
    this.#wake(id);
  }

  /** Who deleted it and who makes its reply both tell of it. */
  #delete(entryId: string, deleted: Deleted): void {
    const { id, seq = Number.POSITIVE_INFINITY } = deleted;
    if (this.#deleted.has(id) || seq <= this.clearedSeq || (this.running.get(id)?.seq ?? 0) > seq) return;
    this.forget(id);
    remember(this.#deleted, id);
    this.#say(changeFrame(entryId, deleted));
    this.#wake(id);
  }

  #wake(id: string): void {
    for (const { id: awaited, done } of this.#waiting) {
      if (awaited === id) done();
    }
  }
}

/** When an entry of the log was written: what is told of a message by one that does not say when it was made. */
const atOf = (entryId: string | null): number => Number(entryId?.split("-", 1)[0]);

function remember(ids: Set<string>, id: string): void {
  ids.add(id);
  if (ids.size > MOST_ENDED) ids.delete(ids.values().next().value as string);
}
