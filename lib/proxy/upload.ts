import type { IncomingMessage } from "node:http";

/** What is read of a body before it is known whether it may go on; then the client has to wait. */
const READ_AHEAD = 262_144;

/**
 * A request's body on its way up. It is read ahead while the event is opened, so that a short one is there whole when it is
 * wanted and goes out in one piece; a long one is streamed, never held.
 */
export class Upload {
  readonly #req: IncomingMessage;
  readonly #keepBytes: number;
  #chunks: Buffer[] = [];
  #ended = false;
  /** Bytes read so far. */
  size = 0;
  /** The beginning, for the audit log. */
  kept: Buffer[] = [];
  #keptBytes = 0;

  constructor(req: IncomingMessage & { rawBody?: Buffer }, keepBytes: number) {
    this.#req = req;
    this.#keepBytes = keepBytes;
    if (req.rawBody) {
      // Under a framework that read it before us there is nothing left to stream.
      this.#take(req.rawBody);
      this.#ended = true;
      return;
    }
    req.on("data", this.#onData);
    req.once("end", this.#onEnd);
  }

  /** The body for the upstream: null when there is none. Call once. */
  body(): Buffer | AsyncIterable<Uint8Array> | null {
    const streams = !this.#ended && hasBody(this.#req);
    // A stream without a listener flows on into nothing, and the upstream may take its time to ask for the rest.
    if (streams) this.#req.pause();
    this.#req.off("data", this.#onData);
    this.#req.off("end", this.#onEnd);
    const chunks = this.#chunks;
    this.#chunks = [];
    if (streams) return this.#rest(chunks);
    if (chunks.length === 0) return null;
    return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, this.size);
  }

  /** Lets the rest of a body that nobody wants run off. */
  discard(): void {
    this.#req.off("data", this.#onData);
    this.#chunks = [];
    this.#req.resume();
  }

  async *#rest(chunks: Buffer[]): AsyncGenerator<Buffer> {
    try {
      yield* chunks;
      // An upstream may answer before it has everything; the client's connection must outlive that.
      for await (const chunk of this.#req.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        this.#keep(chunk);
        yield chunk;
      }
    } finally {
      this.#req.resume();
    }
  }

  #onData = (chunk: Buffer): void => {
    this.#take(chunk);
    if (this.size > READ_AHEAD) this.#req.pause();
  };
  #onEnd = (): void => {
    this.#ended = true;
  };

  #take(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#keep(chunk);
  }

  #keep(chunk: Buffer): void {
    this.size += chunk.length;
    if (this.#keptBytes >= this.#keepBytes) return;
    const part = chunk.length > this.#keepBytes ? chunk.subarray(0, this.#keepBytes) : chunk;
    this.kept.push(part);
    this.#keptBytes += part.length;
  }
}

const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
