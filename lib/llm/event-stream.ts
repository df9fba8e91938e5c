const [LF, CR] = [0x0a, 0x0d];
/** The most that one event may have; a long answer comes in thousands of small ones. */
const MAX_EVENT_BYTES = 4 * 1024 * 1024;
const FIELDS = new Set(["data", "event", "id", "retry"]);

/** What came is not what was asked for. */
export class Garbled extends Error {
  override readonly name = "Garbled";
}

export type StreamEvent = { name: string; data: string };

/**
 * Reads server-sent events from bytes, however they are cut: a line is decoded when it is whole, and every byte is looked at
 * once. (WHATWG HTML, 9.2.6, which leaves out what the stream ends in the middle of; fields it does not name are ignored, but a
 * stream that begins with one is none.)
 */
export class EventStream {
  /** The line that is not whole yet, in the beginning of a buffer that grows by doubling. */
  #held = Buffer.alloc(0);
  #heldBytes = 0;
  #afterCr = false;
  #begun = false;
  #name = "";
  #data: string[] = [];
  /** Of the lines of the event that is not complete yet. */
  #eventBytes = 0;

  /** The events that are complete with these bytes; those without data are left out. */
  push(chunk: Uint8Array): StreamEvent[] {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const events: StreamEvent[] = [];
    let start = 0;
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i];
      if (byte === LF && this.#afterCr) start = i + 1;
      else if (byte === LF || byte === CR) {
        this.#endLine(bytes, start, i, events);
        start = i + 1;
      }
      this.#afterCr = byte === CR;
    }
    if (start < bytes.length) this.#hold(bytes, start, bytes.length);
    return events;
  }

  /** What the stream ended in the middle of: the data of an event, half a line with it. */
  rest(): string {
    this.#readLine(this.#held.toString("utf8", 0, this.#heldBytes));
    return this.#data.join("\n");
  }

  #endLine(bytes: Buffer, start: number, end: number, events: StreamEvent[]): void {
    const size = this.#heldBytes + end - start;
    if (this.#heldBytes === 0) {
      this.#limit(size);
      this.#readLine(bytes.toString("utf8", start, end));
    } else {
      this.#hold(bytes, start, end);
      this.#readLine(this.#held.toString("utf8", 0, size));
      this.#heldBytes = 0;
    }
    this.#eventBytes += size;
    if (size > 0) return;
    const data = this.#data.join("\n");
    if (data !== "") events.push({ name: this.#name, data });
    this.#name = "";
    this.#data = [];
    this.#eventBytes = 0;
  }

  #readLine(received: string): void {
    const line = !this.#begun && received.startsWith("\uFEFF") ? received.slice(1) : received;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    if (!this.#begun && field !== "" && !FIELDS.has(field)) throw new Garbled("begins with something else");
    this.#begun = true;
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#name = value;
  }

  #hold(bytes: Buffer, start: number, end: number): void {
    const size = this.#heldBytes + end - start;
    this.#limit(size);
    if (size > this.#held.length) {
      const grown = Buffer.allocUnsafe(Math.max(2 * this.#held.length, size, 1_024));
      this.#held.copy(grown, 0, 0, this.#heldBytes);
      this.#held = grown;
    }
    bytes.copy(this.#held, this.#heldBytes, start, end);
    this.#heldBytes = size;
  }

  #limit(size: number): void {
    if (this.#eventBytes + size > MAX_EVENT_BYTES) throw new Garbled("an event is too large");
  }
}
