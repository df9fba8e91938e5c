import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";

/** Longer than a load balancer keeps an idle connection, so that it is never used while we close it. */
const KEEP_ALIVE_MS = 75_000;

/** The one listener: it serves what any `http.Server` hears, ours or a framework's. */
export type Listener = {
  request(req: IncomingMessage, res: ServerResponse): void;
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  clientError(error: Error, socket: Duplex): void;
  /** Refuses new work, lets replies finish until the deadline, completes what is to be written, and resolves when nothing is left. */
  drain(server: Server, deadlineMs?: number): Promise<void>;
};

/** Puts the listener on a server in place of whatever listened there. */
export function attach(server: Server, listener: Listener): void {
  for (const event of ["request", "checkExpectation", "upgrade", "clientError", "connect"]) server.removeAllListeners(event);
  server.on("request", listener.request);
  server.on("checkExpectation", listener.request);
  server.on("upgrade", listener.upgrade);
  server.on("clientError", listener.clientError);
  server.on("connect", (_req, socket) => listener.clientError(new Error("CONNECT"), socket));
  // Node would refuse a request without a Host by itself, and without an envelope.
  Object.assign(server, { requireHostHeader: false });
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  // An upload may take as long as it takes; headers may not (Node's 60 seconds).
  server.requestTimeout = 0;
}
