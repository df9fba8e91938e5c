import type { Author, Entry } from "./bus.ts";

const ID = /^(\d{1,20})-(\d{1,20})$/;
const MESSAGE = /^(\d+-\d+) (\d+-\d+|-) /;
const LARGEST_PART = 2n ** 64n - 1n;

/** Whether a server would take this for an entry's id. What a client sends as its last one may be anything. */
export function isEntryId(text: string): boolean {
  const [, ms, seq] = ID.exec(text) ?? [];
  return ms !== undefined && seq !== undefined && BigInt(ms) <= LARGEST_PART && BigInt(seq) <= LARGEST_PART;
}

/** An entry as it is published: its id, that of the one before or `-`, and the text. Null: this is no entry. */
export function entryIn(message: string): Entry | null {
  const [head, id, prev] = MESSAGE.exec(message) ?? [];
  if (head === undefined || id === undefined || prev === undefined) return null;
  return { id, prev: prev === "-" ? null : prev, text: message.slice(head.length) };
}

/** Entries in the order of the log, each with the id of the one before it. */
export function chained(entries: readonly { id: string; text: string }[], first: string | null): Entry[] {
  return entries.map(({ id, text }, i) => ({ id, prev: entries[i - 1]?.id ?? first, text }));
}

/** Throws where a frame would break the line format, or where nothing is asked for: the caller's mistake, not the bus'. */
export function assertFrame(text: string | null, author: Author | undefined): void {
  if (text === null ? !author : text === "" || /[\r\n]/.test(text)) throw new TypeError("a frame is one line of text");
}
