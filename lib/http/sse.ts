import type { ServerResponse } from "node:http";
import type { Frame } from "./frame.ts";
import type { AnswerHeaders } from "./raw.ts";
import { PING, SocketViewer } from "./viewer.ts";

/** How long the last frames may take to be read once the stream is over. */
const LINGER_MS = 2_000;
/** A line that every parser skips, where the frames are of an endpoint's own shape. */
const COMMENT = Buffer.from(": ping\n\n");
const NOTHING = Buffer.alloc(0);
const CRLF = Buffer.from("\r\n");

/** A viewer by server-sent events. Not in chunks: the end of the connection is the end of the answer, so that bytes need no wrapping. */
export class SseViewer extends SocketViewer {
  readonly status = 200;
  protected readonly chunked: boolean = false;
  protected readonly res: ServerResponse;
  #headers: AnswerHeaders | null;

  /** The response must have its connection already: behind pipelined requests it gets it later. */
  constructor(res: ServerResponse, headers: AnswerHeaders, lastEventId: string | null) {
    super(lastEventId);
    this.res = res;
    this.#headers = headers;
    res.once("close", () => this.leave());
  }

  begin(): void {
    const { socket } = this.res;
    if (!socket || socket.destroyed || !this.#headers) {
      this.leave();
      return;
    }
    socket.setNoDelay(true);
    socket.cork();
    writeStreamHead(this.res, this.#headers, this.chunked);
    this.#headers = null;
    this.start(socket);
    socket.uncork();
  }

  beat(): void {
    this.write(PING.sse, false);
  }

  finish(): void {
    const { socket } = this.res;
    if (!socket || socket.writableLength === 0) {
      this.res.end();
      return;
    }
    // What waits has passed the response by; one that is told to end takes its connection for idle, and it may be closed.
    const late = setTimeout(() => socket.destroy(), LINGER_MS).unref();
    socket.write(NOTHING, () => {
      clearTimeout(late);
      this.res.end();
    });
  }

  protected encode(frame: Frame): Buffer {
    return frame.sse;
  }
}

/**
 * An endpoint's own answer as server-sent events, from the first frame on. It is no stream that one could come back to, so it
 * goes in chunks: half an answer must not pass for a whole one.
 */
export class SseAnswer extends SseViewer {
  protected override readonly chunked = true;
  override readonly rotates = false;

  override send(frame: Frame): boolean {
    if (!this.begun && !this.closed) this.begin();
    return super.send(frame);
  }

  override beat(): void {
    if (this.begun) this.write(this.#chunk(COMMENT), false);
  }

  protected override encode(frame: Frame): Buffer {
    return this.#chunk(frame.sse);
  }

  /** The response itself writes the last chunk when it ends. To HTTP/1.0, which knows none, it writes as it is. */
  #chunk(bytes: Buffer): Buffer {
    if (!this.res.chunkedEncoding) return bytes;
    return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, CRLF]);
  }
}

/** The head of an answer as server-sent events; nothing else is written by way of the response. */
export function writeStreamHead(res: ServerResponse, headers: AnswerHeaders, chunked = false): void {
  // Node has seen to it already where the client speaks HTTP/1.0.
  if (!chunked) res.useChunkedEncodingByDefault = false;
  res.shouldKeepAlive = false;
  // Proxies that collect an answer before they pass it on are asked not to.
  const all = { ...headers, "content-type": "text/event-stream", "x-accel-buffering": "no" };
  // At once, because a response keeps for as long as it lasts what it is given one by one.
  res.writeHead(200, "", Object.entries(all).flat()).flushHeaders();
}

/** Whether a client would rather have server-sent events than JSON. */
export function prefersEvents(accept = ""): boolean {
  const quality = (type: string) => {
    const range = accept.split(",").find((it) => it.split(";", 1)[0]?.trim().toLowerCase() === type);
    if (range === undefined) return 0;
    const q = /;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)/i.exec(range)?.[1];
    return q === undefined ? 1 : Number(q);
  };
  return quality("text/event-stream") > quality("application/json");
}
