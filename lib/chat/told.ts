import type { MessageState, MessageView } from "../repo/messages.ts";

/**
 * What the log of a chat tells, one line each. A reader ignores kinds and fields that it does not know, so that two versions
 * can stand side by side. A text that is too long for a line of the log is null there, and read from the store.
 */
export type Told = Begun | Delta | Ended | Changed;
/** A reply is being made; `reply` is all of it so far. */
export type Begun = { t: "begin"; id: string; seq: number; user: string; prompt: string | null; reply: string };
/** More of a reply, which had `at` UTF-16 units before. */
export type Delta = { t: "delta"; id: string; at: number; text: string };
/** A message is complete: its reply has ended, or there is none because it is off the record. */
export type Ended = {
  t: "end";
  id: string;
  seq: number;
  user: string;
  prompt: string | null;
  reply: string | null;
  state: MessageState;
  by: string | null;
  code: string | null;
};
/** Who takes part has changed, or a message was deleted. */
export type Changed = { t: "member"; added: string[]; removed: string[] } | Deleted;
export type Deleted = { t: "deleted"; id: string };

/** The longest texts in a line of the log, in UTF-16 units: Upstash takes 256 KiB a line, in UTF-8. */
const PROMPT = 16_384;
const REPLY = 49_152;

const upTo = (most: number, text: string): string | null => (text.length <= most ? text : null);

export const begun = ({ id, seq, userId, prompt }: MessageView, reply: string): Begun => ({
  t: "begin",
  id,
  seq,
  user: userId,
  prompt: upTo(PROMPT, prompt),
  reply,
});

export const ended = ({ id, seq, userId, prompt, reply, state, stoppedBy, errorCode }: MessageView): Ended => ({
  t: "end",
  id,
  seq,
  user: userId,
  prompt: upTo(PROMPT, prompt),
  reply: upTo(REPLY, reply),
  state,
  by: stoppedBy,
  code: errorCode,
});

const KINDS = new Set(["begin", "delta", "end", "member", "deleted"]);

/** A line of the log; null for one of a kind that this version does not know. */
export function parseTold(line: string): Told | null {
  try {
    const told: unknown = JSON.parse(line);
    if (typeof told !== "object" || told === null || !("t" in told)) return null;
    return KINDS.has(String(told.t)) ? (told as Told) : null;
  } catch {
    return null;
  }
}

/** Whether an id of the log, `milliseconds-number`, is behind another. */
export function isAfter(id: string, last: string | null): boolean {
  if (last === null) return true;
  const [ms = 0, seq = 0] = id.split("-").map(Number);
  const [lastMs = 0, lastSeq = 0] = last.split("-").map(Number);
  return ms > lastMs || (ms === lastMs && seq > lastSeq);
}
