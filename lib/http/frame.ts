const TEXT = 0x81;

/** One message of a stream, encoded once however many get it: the bytes for a transport are shared by all, and never changed. */
export class Frame {
  readonly id: string | null;
  readonly event: string | null;
  readonly data: string;
  /** When what it tells of was made, in milliseconds since 1970, where that may expire. */
  readonly at: number | null;
  #sse: Buffer | undefined;
  #ws: Buffer | undefined;

  /**
   * `data` is one line: a JSON object, or a word such as OpenAI's `[DONE]`. What is named by `event` is not seen by a client
   * that listens for messages alone; `id` is what it resumes from. Neither holds a line break.
   */
  constructor(data: string, { id = null, event = null, at = null }: Partial<Pick<Frame, "id" | "event" | "at">> = {}) {
    this.data = data;
    this.at = at;
    this.id = id;
    this.event = event;
  }

  /** As a server-sent event. */
  get sse(): Buffer {
    this.#sse ??= Buffer.from(`${this.id === null ? "" : `id: ${this.id}\n`}${named(this.event)}data: ${this.data}\n\n`);
    return this.#sse;
  }

  /** As a WebSocket's text message, header and all: the same object, with `event` and `id` in it. */
  get ws(): Buffer {
    this.#ws ??= message(this.#object());
    return this.#ws;
  }

  #object(): string {
    if (!this.data.startsWith("{")) return this.data;
    const fields = JSON.stringify({
      ...(this.event !== null && { event: this.event }),
      ...(this.id !== null && { id: this.id }),
    });
    const rest = this.data.slice(1);
    if (fields === "{}") return this.data;
    return rest === "}" ? fields : `${fields.slice(0, -1)},${rest}`;
  }
}

const named = (event: string | null) => (event === null ? "" : `event: ${event}\n`);

/** A whole message in one frame, not masked: what a server sends (RFC 6455, 5.2). */
function message(text: string): Buffer {
  const length = Buffer.byteLength(text);
  const header = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const bytes = Buffer.allocUnsafe(header + length);
  bytes[0] = TEXT;
  if (header === 2) bytes[1] = length;
  else if (header === 4) {
    bytes[1] = 126;
    bytes.writeUInt16BE(length, 2);
  } else {
    bytes[1] = 127;
    bytes.writeBigUInt64BE(BigInt(length), 2);
  }
  bytes.write(text, header);
  return bytes;
}
