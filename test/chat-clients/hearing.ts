type Fields = Record<string, unknown>;

/** A frame as a client got it, whatever the transport. */
export type Frame = { id: string | null; event: string | null; data: Fields };
type Said = { message: { id: string; prompt?: string; reply: string }; partial: boolean };

/** A message as a client makes it from the frames. */
export type Told = {
  id: string;
  prompt: string | undefined;
  /** How often it began. */
  begun: number;
  /** What was added since. */
  streamed: string;
  deltas: number;
  /** The whole reply, once it is complete, and how often that was said. */
  whole: string | null;
  ends: number;
};

/** Longer than anything here takes; a wait that is over says what was waited for. */
const PATIENCE_MS = 12_000;

/** What one client has heard of a chat, over all of its connections. */
export class Hearing {
  readonly frames: Frame[] = [];
  readonly messages = new Map<string, Told>();
  /** What it resumes from. */
  lastId: string | null = null;
  readonly #asking = new Set<() => void>();

  hear(frame: Frame): void {
    this.frames.push(frame);
    this.lastId = frame.id ?? this.lastId;
    if (frame.event === null) this.#take(frame.data as Said);
    this.changed();
  }

  /** A server-sent event, of the browser's class or of a client's own. */
  hearEvent(type: string, lastEventId: string, data: string): void {
    this.hear({ id: lastEventId || null, event: type === "message" ? null : type, data: JSON.parse(data) });
  }

  /** A message of a WebSocket. */
  hearMessage(text: string): void {
    const { id = null, event = null, ...data } = JSON.parse(text);
    this.hear({ id, event, data });
  }

  /** Asks all who wait again. */
  changed(): void {
    for (const ask of [...this.#asking]) ask();
  }

  /** Resolves when it is so. */
  until(what: string, is: (heard: Hearing) => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const ask = () => {
        if (!is(this)) return;
        clearTimeout(late);
        this.#asking.delete(ask);
        resolve();
      };
      const late = setTimeout(() => {
        this.#asking.delete(ask);
        reject(new Error(`not so within ${PATIENCE_MS} ms: ${what}, of ${JSON.stringify([...this.messages.values()])}`));
      }, PATIENCE_MS);
      this.#asking.add(ask);
      ask();
    });
  }

  /** The message with this prompt. */
  of(prompt: string): Told | undefined {
    return [...this.messages.values()].find((it) => it.prompt === prompt);
  }

  /** The message with this prompt, once so much of its reply has been added. */
  async partly(prompt: string, characters: number): Promise<void> {
    await this.until(`${characters} of ${prompt}`, () => (this.of(prompt)?.streamed.length ?? 0) >= characters);
  }

  /** The same once it is complete. */
  async ended(prompt: string): Promise<Told> {
    await this.until(`the end of ${prompt}`, () => this.of(prompt)?.whole != null);
    return this.of(prompt) as Told;
  }

  /** The names of the events, in their order; heartbeats are none. */
  get events(): string[] {
    return this.frames.flatMap(({ event }) => (event === null || event === "ping" ? [] : [event]));
  }

  /** An empty reply begins it, or begins it anew; more is added; what is not partial is all of it. */
  #take({ message, partial }: Said): void {
    const { prompt, reply } = message;
    const known = this.messages.get(message.id);
    const told = known ?? { id: message.id, prompt, begun: 0, streamed: "", deltas: 0, whole: null, ends: 0 };
    this.messages.set(message.id, told);
    if (!partial) Object.assign(told, { whole: reply, ends: told.ends + 1 });
    else if (reply === "") Object.assign(told, { begun: told.begun + 1, streamed: "" });
    else Object.assign(told, { streamed: told.streamed + reply, deltas: told.deltas + 1 });
  }
}

/** Server-sent events from text, however it is cut (WHATWG HTML, 9.2.6). */
export function eventParser(heard: (type: string, lastEventId: string, data: string) => void): (text: string) => void {
  let rest = "";
  let [type, id] = ["", ""];
  let data: string[] = [];
  const dispatch = () => {
    if (data.length > 0) heard(type || "message", id, data.join("\n"));
    [type, id, data] = ["", "", []];
  };
  const take = (line: string) => {
    if (line === "") return dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    else if (field === "event") type = value;
    else if (field === "id") id = value;
    else if (field !== "") throw new Error(`not a field of a server-sent event: ${line}`);
  };
  return (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) take(line);
  };
}

/** Text that has everything a transport could stumble over, in `count` pieces that are cut anywhere, between the halves of a character too. */
export function trickyPieces(random: () => number, count: number): string[] {
  const pick = <T>(of: readonly T[]) => of[Math.floor(random() * of.length)] as T;
  const pieces: string[] = [];
  while (pieces.length < count) {
    let text = "";
    while (text.length < 400) text += pick(STUMBLING);
    for (let at = 0; at < text.length && pieces.length < count; ) {
      const to = at + 1 + Math.floor(random() * 9);
      pieces.push(text.slice(at, to));
      at = to;
    }
  }
  // All of it ends with a whole character.
  pieces.push(pieces.pop()?.replace(/[\uD800-\uDBFF]$/, "") ?? "", "\u{1F3C1}");
  return pieces;
}

const STUMBLING = [
  ...[
    "data: ",
    "\n\n",
    "\n",
    "\r\n",
    "\r",
    "event: failed\n",
    "id: 9-9\n",
    "retry: 1\n",
    ": ping\n\n",
    "data: [DONE]\n\n",
    "[DONE]",
  ],
  ...[
    "\u2028",
    "\u2029",
    "\u0085",
    "\u001b[31m",
    "\ufeff",
    "\u200d",
    "\t",
    "\u007f",
    '"',
    "\\",
    "\\u0041",
    "\\n",
    "{}",
    '{"error":1}',
  ],
  ...["Straße", "日本語", "שלום", "e\u0301", "🎉", "👩‍👩‍👧‍👦", "𝕏", "🏳️‍🌈", " word", " and", "<b>", "&amp;", "%00", "  "],
];
