import type { MessageState, MessageView } from "../repo/messages.ts";
import { imageAddress } from "./turn.ts";

/**
 * What the log of a chat tells, one line each. A reader ignores kinds and fields that it does not know, so that two versions
 * can stand side by side. A text that is too long for a line of the log is null there, and read from the store.
 */
export type Told = Begun | Delta | Ended | Changed | Cleared;
/** A reply is being made; `reply` is all of it so far. */
export type Begun = { t: "begin"; reply: string } & Said;
/** More of a reply, which had `at` UTF-16 units before. */
export type Delta = { t: "delta"; id: string; at: number; text: string };
/** A message is complete: its reply has ended, or there is none because it is off the record. */
export type Ended = {
  t: "end";
  reply: string | null;
  state: MessageState;
  by: string | null;
  code: string | null;
} & Said;
/** Which message it is. `at`: when it was made, in milliseconds since 1970, by which it expires. */
type Said = { id: string; seq: number; user: string; at?: number; prompt: string | null; image?: string | undefined };
/** Who takes part has changed, or a message was deleted. */
export type Changed = { t: "member"; added: string[]; removed: string[] } | Deleted;
/**
 * All messages up to this number were cleared; null where the chat is gone, and its numbers with it. `made`: when that one was
 * made, in milliseconds since 1970, as the store has it.
 */
export type Cleared = { t: "cleared"; upTo: number | null; made?: number };
/** `seq`: where its producer tells of it; another message may have the id by then. */
export type Deleted = { t: "deleted"; id: string; seq?: number };

/** The longest texts in a line of the log, in UTF-16 units: Upstash takes 256 KiB a line, in UTF-8. */
const PROMPT = 16_384;
const REPLY = 49_152;

const upTo = (most: number, text: string): string | null => (text.length <= most ? text : null);

function saidIn(message: MessageView): Said {
  const { id, seq, userId: user, prompt, createdAt } = message;
  const image = imageAddress(message);
  return { id, seq, user, at: createdAt.getTime(), prompt: upTo(PROMPT, prompt), ...(image !== null && { image }) };
}

export const begun = (message: MessageView, reply: string): Begun => ({ t: "begin", ...saidIn(message), reply });

export function ended(message: MessageView): Ended {
  const { reply, state, stoppedBy: by, errorCode: code } = message;
  return { t: "end", ...saidIn(message), reply: upTo(REPLY, reply), state, by, code };
}

const KINDS = new Set(["begin", "delta", "end", "member", "deleted", "cleared"]);

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
