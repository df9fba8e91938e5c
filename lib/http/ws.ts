import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { WebSocket, WebSocketServer } from "ws";
import { withoutKeyProtocol } from "./credentials.ts";
import { ApiError } from "./error.ts";
import type { Frame } from "./frame.ts";
import type { AnswerHeaders } from "./raw.ts";
import { type Ending, PING, SocketViewer } from "./viewer.ts";

const MOST_HEARD_BYTES = 65_536;
/** How long a client may take to answer that the stream is over. */
const CLOSE_MS = 2_000;
/** A client that answered neither of the last two pings has gone without saying so. */
const UNANSWERED = 2;
const MOST_ID_CHARACTERS = 256;

const CLOSE = { done: 1000, away: 1001, notText: 1003, notJson: 1007, denied: 1008, failed: 1011 } as const;
/** Ends that are the caller's business: they may not see this any more. */
const DENIED = /^(session_ended|access_ended|unauthenticated|forbidden|not_found)$/;

const options = {
  noServer: true,
  clientTracking: false,
  perMessageDeflate: false,
  maxPayload: MOST_HEARD_BYTES,
  closeTimeout: CLOSE_MS,
};
const server = new WebSocketServer(options);

/** A request to speak WebSocket: `res` is the connection's until it is taken. */
export type Upgrade = { req: IncomingMessage; res: ServerResponse; head: Buffer };

/** Throws `upgrade_required` and `bad_request` for a handshake that cannot be completed. */
export function checkHandshake({ method, headers }: IncomingMessage): void {
  if (method !== "GET") throw new ApiError("bad_request", { message: "Ask for a WebSocket with GET." });
  if (headers["sec-websocket-version"] !== "13") {
    const refusal = new ApiError("upgrade_required");
    refusal.headers["sec-websocket-version"] = "13";
    throw refusal;
  }
  if (!/^[+/0-9A-Za-z]{22}==$/.test(headers["sec-websocket-key"] ?? ""))
    throw new ApiError("bad_request", { message: "Sec-WebSocket-Key is missing or wrong." });
}

/** A viewer by WebSocket. Frames are whole messages already, so they pass by the library, which sees to handshake, pings and close. */
export class WsViewer extends SocketViewer {
  readonly status = 101;
  #upgrade: (Upgrade & { headers: AnswerHeaders }) | null;
  #ws: WebSocket | null = null;
  #unanswered = 0;
  #closeCode: number | null = null;

  constructor(upgrade: Upgrade, headers: AnswerHeaders, lastEventId: string | null) {
    super(lastEventId);
    this.#upgrade = { ...upgrade, headers };
  }

  begin(): void {
    if (!this.#upgrade) return;
    const { req, res, head, headers } = this.#upgrade;
    this.#upgrade = null;
    const socket = req.socket;
    const protocol = chosenProtocol(req);
    if (protocol === undefined) delete req.headers["sec-websocket-protocol"];
    else req.headers["sec-websocket-protocol"] = protocol;
    server.once("headers", (lines) => {
      for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
    });
    res.detachSocket(socket);
    server.handleUpgrade(req, socket, head, (ws) => this.#accepted(ws, socket));
    server.removeAllListeners("headers");
    if (!this.#ws) this.leave();
  }

  beat(): void {
    if (this.#unanswered === UNANSWERED) {
      this.abandon("unreachable");
      return;
    }
    this.#unanswered++;
    this.write(PING.ws, false);
    this.#ws?.ping();
  }

  finish({ errorCode }: Ending): void {
    const denied = errorCode !== null && DENIED.test(errorCode);
    const plain = this.rotated ? CLOSE.away : CLOSE.done;
    this.#ws?.close(this.#closeCode ?? (errorCode === null ? plain : denied ? CLOSE.denied : CLOSE.failed));
  }

  protected encode(frame: Frame): Buffer {
    return frame.ws;
  }

  /** Behind a close frame, whoever sent it, comes nothing. */
  protected override write(bytes: Buffer, fills?: boolean): void {
    if (this.#ws === null || this.#ws.readyState === WebSocket.OPEN) super.write(bytes, fills);
  }

  #accepted(ws: WebSocket, socket: Socket): void {
    this.#ws = ws;
    ws.on("close", () => this.leave());
    // What cannot be read is answered by the library: 1002, 1007 or 1009.
    ws.on("error", () => this.end("bad_message"));
    ws.on("pong", () => {
      this.#unanswered = 0;
    });
    ws.on("message", (data, isBinary) => this.#hear(data as Buffer, isBinary));
    this.start(socket);
  }

  #hear(data: Buffer, isBinary: boolean): void {
    if (this.closed) return;
    let said: unknown;
    try {
      said = isBinary ? undefined : JSON.parse(data.toString());
    } catch {}
    if (said === undefined) {
      this.#closeCode = isBinary ? CLOSE.notText : CLOSE.notJson;
      this.end("bad_message");
      return;
    }
    const id = typeof said === "object" && said !== null && "resume" in said ? said.resume : null;
    const { onResume } = this;
    if (onResume && typeof id === "string" && id !== "" && id.length <= MOST_ID_CHARACTERS) this.tell(() => onResume(id));
  }
}

/** The first protocol that the client offers, but for the one that says its key: nothing repeats that. */
function chosenProtocol({ headers }: IncomingMessage): string | undefined {
  const [first = ""] = withoutKeyProtocol(headers["sec-websocket-protocol"] ?? "").split(", ");
  return /^[!#$%&'*+\-.\w^`|~]+$/.test(first) ? first : undefined;
}
