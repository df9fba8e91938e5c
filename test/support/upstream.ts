import { once } from "node:events";
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";
import { answerByDefault } from "./upstream-answers.ts";
import { converse, refuseUpgrade, responseOn } from "./upstream-realtime.ts";

export { faults } from "./upstream-faults.ts";

/** What arrived at the upstream. Times are `performance.now()` milliseconds. */
export interface Recorded {
  /** The answer's `x-request-id`: `req_1` for the first request since the start. */
  id: string;
  method: string;
  /** The request target, byte for byte as received. */
  target: string;
  rawHeaders: string[];
  headers: IncomingHttpHeaders;
  /** What has arrived so far. */
  readonly body: Buffer;
  startedAt: number;
  /** Resolves when the whole body is there; rejects when the sender cut it off. */
  complete: Promise<void>;
  /** `aborted`: the connection went away before the answer was finished (a WebSocket: without a close frame), by either side. */
  closed: Promise<{ aborted: boolean; atMs: number }>;
}

export type Handler = (req: IncomingMessage, res: ServerResponse, recorded: Recorded) => void | Promise<void>;
/** Asked when the headers are there and the body is not; one that needs the body awaits `complete`. */
export type Predicate = (recorded: Recorded) => boolean | Promise<boolean>;

export interface Upstream {
  url: string;
  requests: Recorded[];
  /** Realtime connections that are open, for a test to ping, close or terminate. */
  sockets: ReadonlySet<WebSocket>;
  /** The handler answers the next request, upgrades included. Calls queue up. */
  next(handler: Handler): void;
  /** The handler answers every request the predicate accepts, until `reset`. The latest wins. */
  when(predicate: Predicate, handler: Handler): void;
  /** Forgets requests and handlers; running answers go on. */
  reset(): void;
  close(): Promise<void>;
  /** The n-th request since the last reset (from 1), or the first the predicate accepts; past ones count. */
  waitFor(which: number | ((recorded: Recorded) => boolean)): Promise<Recorded>;
}

interface Waiter {
  find(): Recorded | undefined;
  resolve(recorded: Recorded): void;
  reject(error: Error): void;
}

/** The close code `ws` reports when no close frame came. */
const abnormalClosure = 1006;

/** What a gateway must not pass on rides on every answer. */
const headersToFilter = {
  "set-cookie": "__cf_bm=upstream; path=/; domain=.api.openai.com; HttpOnly; Secure; SameSite=None",
  "alt-svc": 'h3=":443"; ma=86400',
  "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
  "access-control-allow-origin": "*",
};

/** Starts the model upstream of the tests: OpenAI's API with fixed answers, and any fault a test asks for. */
export async function startUpstream(): Promise<Upstream> {
  const requests: Recorded[] = [];
  const connections = new Set<Socket>();
  const realtime = new WebSocketServer({ noServer: true });
  let queue: Handler[] = [];
  let rules: { predicate: Predicate; handler: Handler }[] = [];
  let waiters: Waiter[] = [];
  let count = 0;

  const settle = () => {
    waiters = waiters.filter(({ find, resolve }) => {
      const found = find();
      if (found) resolve(found);
      return !found;
    });
  };

  const record = (req: IncomingMessage, closed: Recorded["closed"], hasBody: boolean): Recorded => {
    const recorded = toRecorded(`req_${++count}`, req, closed, hasBody);
    requests.push(recorded);
    settle();
    recorded.complete.then(settle, () => {});
    return recorded;
  };

  const choose = async <T>(recorded: Recorded, otherwise: T): Promise<Handler | T> => {
    const queued = queue.shift();
    if (queued) return queued;
    for (const { predicate, handler } of rules.toReversed()) if (await predicate(recorded)) return handler;
    return otherwise;
  };

  /** A mistake in a handler fails the test run as an unhandled rejection; a connection that is gone does not. */
  const answer = async (req: IncomingMessage, res: ServerResponse, recorded: Recorded, handler: Promise<Handler>) => {
    for (const [name, value] of Object.entries(answerHeaders(recorded))) res.setHeader(name, value);
    try {
      await (await handler)(req, res, recorded);
    } catch (error) {
      res.destroy();
      if (!isDisconnect(error)) throw error;
    }
  };

  const server = createServer(async (req, res) => {
    const { closed, finish } = closing();
    res.once("close", () => finish(!res.writableFinished));
    const recorded = record(req, closed, true);
    await answer(req, res, recorded, choose(recorded, answerByDefault));
  });

  server.on("upgrade", async (req: IncomingMessage, socket: Socket, head: Buffer) => {
    const { closed, finish } = closing();
    const recorded = record(req, closed, false);
    const handler = await choose(recorded, refuseUpgrade(recorded.target));
    if (handler) {
      const res = responseOn(req, socket);
      socket.once("close", () => finish(!res.writableFinished));
      return answer(req, res, recorded, Promise.resolve(handler));
    }
    realtime.handleUpgrade(req, socket, head, (conversation) => {
      conversation.on("close", (code) => finish(code === abnormalClosure));
      converse(conversation);
    });
  });
  realtime.on("headers", (lines: string[], req: IncomingMessage) => {
    const recorded = requests.findLast(({ rawHeaders }) => rawHeaders === req.rawHeaders);
    if (recorded) lines.push(...Object.entries(answerHeaders(recorded)).map(([name, value]) => `${name}: ${value}`));
  });

  server.on("connection", (socket) => {
    connections.add(socket);
    socket.on("close", () => connections.delete(socket));
    socket.on("error", () => {});
  });
  // The default of 5 s closes idle connections just as a client's pool reuses one.
  server.keepAliveTimeout = 120_000;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;

  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    sockets: realtime.clients,
    next: (handler) => void queue.push(handler),
    when: (predicate, handler) => void rules.push({ predicate, handler }),
    reset() {
      requests.length = 0;
      queue = [];
      rules = [];
    },
    async close() {
      const closed = once(server, "close");
      server.close();
      for (const socket of connections) socket.destroy();
      for (const { reject } of waiters) reject(new Error("the upstream was closed while a test waited for a request"));
      waiters = [];
      await closed;
    },
    waitFor(which) {
      const find = () => (typeof which === "number" ? requests[which - 1] : requests.find(which));
      return new Promise((resolve, reject) => {
        waiters.push({ find, resolve, reject });
        settle();
      });
    },
  };
}

function toRecorded(id: string, req: IncomingMessage, closed: Recorded["closed"], hasBody: boolean): Recorded {
  let body = Buffer.alloc(0);
  let arrived: Buffer[] = [];
  const complete = hasBody
    ? new Promise<void>((resolve, reject) => {
        req.on("data", (chunk: Buffer) => arrived.push(chunk));
        req.on("end", resolve);
        req.on("error", reject);
      })
    : Promise.resolve();
  complete.catch(() => {});
  return {
    id,
    method: req.method ?? "",
    target: req.url ?? "",
    rawHeaders: req.rawHeaders,
    headers: req.headers,
    get body() {
      if (arrived.length > 0) body = Buffer.concat([body, ...arrived]);
      arrived = [];
      return body;
    },
    startedAt: performance.now(),
    complete,
    closed,
  };
}

function closing(): { closed: Recorded["closed"]; finish(aborted: boolean): void } {
  let finish = (_aborted: boolean) => {};
  const closed: Recorded["closed"] = new Promise((resolve) => {
    finish = (aborted) => resolve({ aborted, atMs: performance.now() });
  });
  return { closed, finish };
}

function answerHeaders({ id }: Recorded): Record<string, string> {
  return { "x-request-id": id, "openai-processing-ms": "7", ...headersToFilter };
}

function isDisconnect(error: unknown): boolean {
  const codes = ["ECONNRESET", "EPIPE", "ERR_STREAM_PREMATURE_CLOSE", "ERR_STREAM_DESTROYED"];
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
