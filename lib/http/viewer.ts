import type { Duplex } from "node:stream";
import { Frame } from "./frame.ts";

/** Somebody who reads a stream, by whatever transport, as those see them who send. */
export type Viewer = {
  /** The id of the last frame that they have, where they said one. */
  readonly lastEventId: string | null;
  /** True when nothing can be sent any more, whoever ended it. */
  readonly closed: boolean;
  /**
   * Sends a frame. False: the connection is full. That frame is queued, and none is taken before `onDrain`; who sends has
   * to remember where they were.
   */
  send(frame: Frame): boolean;
  onDrain: (() => void) | null;
  /** Called once, when the stream is over. */
  onClose: (() => void) | null;
  /** A WebSocket's client says the id of the last frame that it has, and wants what follows. */
  onResume: ((id: string) => void) | null;
  /** Ends the stream, behind a last frame where there is one. The code is for the audit log; null: nothing is wrong. */
  end(errorCode?: string | null, last?: Frame): void;
};

/** Why a stream is over; `cause`: what a callback of its sender threw. */
export type Ending = { errorCode: string | null; cause?: unknown };

/** What waits for a viewer who does not read, apart from one frame, which may be larger. */
const FULL_BYTES = 65_536;
export const PING = new Frame("{}", { event: "ping" });
const ROTATE = new Frame("{}", { event: "rotate" });
const NONE: Buffer[] = [];

/** What both transports have in common: bytes go past the HTTP and WebSocket layers, straight to the connection. */
export abstract class SocketViewer implements Viewer {
  /** The status of its event. */
  abstract readonly status: number;
  readonly lastEventId: string | null;
  readonly startedMs = performance.now();
  readonly over: Promise<Ending>;
  onDrain: (() => void) | null = null;
  onClose: (() => void) | null = null;
  onResume: ((id: string) => void) | null = null;
  closed = false;
  /** Whether one can come back to it, so that it may end itself. */
  readonly rotates: boolean = true;
  /** Bytes that may be sent before the stream rotates. */
  allowance = Number.POSITIVE_INFINITY;
  /** Since when the connection is full. */
  fullSinceMs: number | null = null;
  protected rotated = false;
  #settle: (ending: Ending) => void = () => {};
  #socket: Duplex | null = null;
  /** What was sent before the answer began. */
  #early = NONE;
  #sentBytes = 0;
  #turn = -1;

  constructor(lastEventId: string | null) {
    this.lastEventId = lastEventId;
    this.over = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /** Sends the answer's head, and what is queued behind it. */
  abstract begin(): void;
  /** A sign of life, or the end of one who gives none. */
  abstract beat(): void;
  /** Ends the connection, once the event is complete: a function has no CPU after that. */
  abstract finish({ errorCode }: Ending): void;
  protected abstract encode(frame: Frame): Buffer;

  get begun(): boolean {
    return this.#socket !== null;
  }

  send(frame: Frame): boolean {
    if (this.closed || this.fullSinceMs !== null) return false;
    this.write(this.encode(frame));
    return this.fullSinceMs === null;
  }

  end(errorCode: string | null = null, last?: Frame): void {
    if (this.closed) return;
    if (last) this.write(this.encode(last));
    this.#close({ errorCode });
  }

  /** Ends the stream with the advice to come again, which is no error. */
  rotate(): void {
    if (this.closed || !this.rotates) return;
    this.rotated = true;
    this.end(null, ROTATE);
  }

  /** Ends it without waiting for what is queued. */
  abandon(errorCode: string): void {
    this.#close({ errorCode });
    this.#socket?.destroy();
  }

  /** The connection is open, and its head sent. */
  protected start(socket: Duplex): void {
    this.#socket = socket;
    for (const bytes of this.#early) socket.write(bytes);
    this.#early = NONE;
    if (this.fullSinceMs === null) return;
    if (socket.writableNeedDrain) socket.once("drain", () => this.#drained());
    else setImmediate(() => this.#drained());
  }

  /** The connection has gone. */
  protected leave(): void {
    this.#close({ errorCode: null });
  }

  /** A sign of life does not make the connection full: who sends would not have been told, and lose the next frame. */
  protected write(bytes: Buffer, fills = true): void {
    const socket = this.#socket;
    this.#sentBytes += bytes.length;
    if (socket === null) {
      if (this.#early === NONE) this.#early = [];
      this.#early.push(bytes);
      if (this.#sentBytes > FULL_BYTES) this.fullSinceMs ??= performance.now();
      return;
    }
    this.#turn = together(socket, this.#turn);
    socket.write(bytes);
    // What is only held back until the end of the turn does not make it full.
    if (socket.writableLength > FULL_BYTES) socket.uncork();
    if (fills && socket.writableLength > FULL_BYTES && this.fullSinceMs === null) {
      this.fullSinceMs = performance.now();
      socket.once("drain", () => this.#drained());
    }
    if (this.#sentBytes > this.allowance) {
      this.allowance = Number.POSITIVE_INFINITY;
      // Not now: who sends is in the middle of sending to many.
      setImmediate(() => this.rotate());
    }
  }

  /** Calls what a sender left here. What it throws ends this stream, and nothing else. */
  protected tell(callback: (() => void) | null): void {
    try {
      callback?.();
    } catch (cause) {
      this.#close({ errorCode: "internal", cause });
    }
  }

  #drained(): void {
    this.fullSinceMs = null;
    this.tell(this.onDrain);
  }

  #close(ending: Ending): void {
    if (this.closed) return;
    this.closed = true;
    const { onClose } = this;
    this.onDrain = null;
    this.onClose = null;
    this.onResume = null;
    try {
      onClose?.();
      this.#settle(ending);
    } catch (cause) {
      this.#settle({ errorCode: "internal", cause });
    }
  }
}

let turn = 0;
let ends = false;
const corked: Duplex[] = [];

/**
 * What a connection is sent in one turn of the event loop goes out together, from the second piece on: the first may well be
 * the only one. Answers this turn's number, from which the connection's next piece knows.
 */
function together(socket: Duplex, lastTurn: number): number {
  if (!ends) {
    ends = true;
    process.nextTick(endTurn);
  }
  if (lastTurn === turn && socket.writableCorked === 0) {
    socket.cork();
    corked.push(socket);
  }
  return turn;
}

function endTurn(): void {
  turn++;
  ends = false;
  for (const socket of corked.splice(0)) socket.uncork();
}
