import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { Deps } from "../deps.ts";
import { corsHeaders, SECURITY_HEADERS } from "./browser.ts";
import type { ApiError } from "./error.ts";
import { beginUnread, endRequest } from "./request-log.ts";

/** Headers of an answer, by their names in lower case. */
export type AnswerHeaders = Record<string, string>;

/** What every answer of ours carries, refusals included. */
export const headersFor = (
  { headers: { origin } }: IncomingMessage,
  id: string,
  { config }: Pick<Deps, "config">,
): AnswerHeaders => ({
  ...SECURITY_HEADERS,
  ...corsHeaders(origin, config.allowedOrigins),
  "x-proxy-gpt-request-id": id,
});

/** Sends an answer whole, unless it is too late for that. `body` null: it has none. */
export function send(
  req: IncomingMessage,
  res: ServerResponse,
  status: number,
  headers: AnswerHeaders,
  body: string | null,
): void {
  if (res.destroyed || res.headersSent) return;
  res.writeHead(status, {
    ...headers,
    ...(body !== null && { "content-length": Buffer.byteLength(body) }),
    ...(isUnread(req) && { connection: "close" }),
  });
  res.end(req.method === "HEAD" ? undefined : body);
}

/** Answers with the one envelope, unless it is too late for that. */
export function sendError(req: IncomingMessage, res: ServerResponse, error: ApiError, id: string, deps: Deps): void {
  const headers = { ...headersFor(req, id, deps), ...error.headers, "content-type": "application/json" };
  send(req, res, error.status, headers, JSON.stringify(error.envelope(id)));
}

/** Whether a body is still on its way that nobody is going to read. Before a whole request has come, that is said of it too soon. */
const isUnread = ({ complete, headers }: IncomingMessage): boolean =>
  !complete && (headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0);

/** The same where there is no request to answer: the bytes of the answer, and the end of the connection. */
export function sendErrorByHand(socket: Duplex, error: ApiError, deps: Deps): void {
  const begun = beginUnread(deps);
  const body = JSON.stringify(error.envelope(begun.id));
  const headers = {
    ...SECURITY_HEADERS,
    ...corsHeaders(undefined, deps.config.allowedOrigins),
    "x-proxy-gpt-request-id": begun.id,
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    connection: "close",
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`HTTP/1.1 ${error.status} Refused\r\n${lines.join("")}\r\n${body}`);
  hangUp(socket);
  endRequest(begun, { what: "refused", userId: null, status: error.status, code: error.code }, deps);
}

/** How long what a client still sends is let run off: a connection that is closed over it is reset, and the answer lost. */
const LINGER_MS = 1_000;

/** Ends a connection that Node's server no longer ends by itself. */
export function hangUp(socket: Duplex): void {
  socket.end();
  socket.resume();
  const deadline = setTimeout(() => socket.destroy(), LINGER_MS).unref();
  socket.once("close", () => clearTimeout(deadline));
}
