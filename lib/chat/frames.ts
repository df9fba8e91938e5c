import { Frame } from "../http/frame.ts";
import type { MessageView } from "../repo/messages.ts";
import type { Changed, Ended } from "./told.ts";
import { imageAddress } from "./turn.ts";

/** A prompt that is longer is left out of the frames that only add to its reply. */
const REPEATED_PROMPT = 4_096;

/** What of a message its frames repeat. A prompt that is not known yet is null, and left out. */
export type Name = { id: string; user: string; at: number; prompt: string | null; image?: string | undefined };

export function nameOf(message: MessageView): Name {
  const { id, userId: user, createdAt, prompt } = message;
  return { id, user, at: createdAt.getTime(), prompt, image: imageAddress(message) ?? undefined };
}

/** A message as its frames name it: what all of them repeat is encoded once. */
export class Named {
  readonly #head: string;
  readonly #shortHead: string;
  readonly #at: number;
  constructor({ id, user, at, prompt, image }: Name) {
    const shown = image === undefined ? "" : `"image":${JSON.stringify(image)},`;
    const bare = `{"message":{"id":${JSON.stringify(id)},"user_id":${JSON.stringify(user)},${shown}`;
    this.#at = at;
    this.#head = prompt === null ? bare : `${bare}"prompt":${JSON.stringify(prompt)},`;
    this.#shortHead = (prompt?.length ?? 0) > REPEATED_PROMPT ? bare : this.#head;
  }

  /** The message with an empty reply: a reply begins here, or begins anew. */
  begins(id: string | null = null): Frame {
    return new Frame(`${this.#head}"reply":""},"partial":true}`, { id, at: this.#at });
  }
  /** New text of the reply. */
  adds(id: string | null, text: string): Frame {
    return new Frame(`${this.#shortHead}"reply":${JSON.stringify(text)}},"partial":true}`, { id, at: this.#at });
  }
  /** The whole reply. */
  ends(id: string | null, reply: string): Frame {
    return new Frame(`${this.#head}"reply":${JSON.stringify(reply)}},"partial":false}`, { id, at: this.#at });
  }
}

type EndedHow = Pick<Ended, "id" | "state" | "by" | "code"> & { at?: number | null };

/** Whether a frame says only some of a reply. */
export const isPiece = ({ data }: Frame): boolean => data.endsWith(',"partial":true}');

/** What a client that listens for it is told before the last frame of a reply that did not end by itself; null for others. */
export function endingFrame({ id, state, by, code, at = null }: EndedHow): Frame | null {
  if (state === "stopped") return new Frame(JSON.stringify({ message: { id }, user_id: by }), { event: "stopped", at });
  if (state === "failed") return new Frame(JSON.stringify({ message: { id }, error: { code } }), { event: "failed", at });
  return null;
}

/** A change of who takes part, or a message that is gone. */
export function changeFrame(id: string, changed: Changed): Frame {
  if (changed.t === "deleted") return new Frame(JSON.stringify({ message: { id: changed.id } }), { id, event: "deleted" });
  return new Frame(JSON.stringify({ added: changed.added, removed: changed.removed }), { id, event: "member" });
}

/** What a viewer has seen is no longer in the log: what follows begins anew. */
export const resetFrame = (id: string | null = null): Frame => new Frame("{}", { id, event: "reset" });

/** Where to resume from, for somebody to whom nothing else says it. */
export const placeFrame = (id: string): Frame => new Frame("{}", { id, event: "ping" });

/** A page of messages, the newest first, as those who have lost their place are sent them: the oldest first, whole. */
export const historyFrames = (page: readonly MessageView[]): Frame[] =>
  page
    .filter(({ state }) => state !== "streaming")
    .map((message) => new Named(nameOf(message)).ends(null, message.reply))
    .reverse();
