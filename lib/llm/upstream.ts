import { type ClientRequest, request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Socket } from "node:net";
import { buildConnector, type Dispatcher, Pool } from "undici";
import { azureRoute, isAzure } from "./azure.ts";

/** Where `/v1` targets go, and which header carries the key. */
export type UpstreamRoute = {
  origin: string;
  /** The target on the upstream for one of ours that begins with `/v1/`; what follows is passed on as it is. */
  target(v1Target: string): string;
  keyHeader(key: string): [name: string, value: string];
};

export type UpstreamRequest = {
  method: string;
  /** A target that begins with `/v1/` and cannot leave it. */
  target: string;
  /** Names and values in turn, without any credential. */
  headers: string[];
  body: Buffer | AsyncIterable<Uint8Array> | null;
};

/** The model provider. The shared key exists in this closure alone. */
export type Upstream = {
  dispatch(request: UpstreamRequest, handler: Dispatcher.DispatchHandler): void;
  /** Starts a request for another protocol; the caller listens to `upgrade`, `response` and `error`. */
  upgrade(target: string, headers: string[]): ClientRequest;
  close(): Promise<void>;
};
export type UpstreamOptions = {
  key: string | undefined;
  url: string | undefined;
  /** How long the first byte may take. */
  timeoutMs: number;
};

const OPENAI = "https://api.openai.com";
const CONNECT_TIMEOUT_MS = 5_000;
/** How long a stream may stand still before it is given up. */
const STALL_MS = 60_000;

export function createUpstream({ key, url, timeoutMs }: UpstreamOptions): Upstream {
  const route = routeFor(new URL(url ?? OPENAI));
  const credential = key === undefined ? [] : route.keyHeader(key);
  const pool = new Pool(route.origin, {
    connect: mendedConnector(),
    headersTimeout: timeoutMs,
    bodyTimeout: STALL_MS,
    keepAliveTimeout: 30_000,
    pipelining: 1,
  });
  return {
    dispatch: ({ method, target, headers, body }, handler) => {
      headers.push(...credential);
      pool.dispatch(
        { method: method as Dispatcher.HttpMethod, path: route.target(target), headers, body: body as Buffer },
        handler,
      );
    },
    upgrade: (target, headers) => {
      const url = new URL(route.origin);
      const start = url.protocol === "https:" ? httpsRequest : httpRequest;
      return start(url, {
        path: route.target(target),
        headers: ["host", url.host, ...headers, ...credential],
        agent: false,
        timeout: timeoutMs,
      });
    },
    close: () => pool.destroy(),
  };
}

/** Connections of undici, mended where an answer whose connection is to be closed after it ends early, or is held back. */
function mendedConnector(): buildConnector.connector {
  const connect = buildConnector({ timeout: CONNECT_TIMEOUT_MS });
  return (options, callback) =>
    connect(options, (...outcome) => {
      const [, socket] = outcome;
      if (socket) {
        socket.on("error", tellReset);
        holdEnd(socket);
      }
      callback(...outcome);
    });
}

/** undici takes a reset for the end of such an answer, so that a cut one would pass for whole. By another name it is an error. */
function tellReset(error: NodeJS.ErrnoException): void {
  if (error.code === "ECONNRESET") error.code = "UPSTREAM_RESET";
}

/**
 * undici fails an assertion, and so the process, when a connection ends while its answer is held back. It gives back what it
 * has not parsed when it holds, and reads when it goes on; Node asks for nothing (`read(0)`) to find out about the end.
 */
function holdEnd(socket: Socket): void {
  const { read, unshift } = socket;
  let held = false;
  socket.unshift = (chunk: Buffer) => {
    held = true;
    if (chunk.length > 0) unshift.call(socket, chunk);
  };
  socket.read = (size?: number) => {
    if (held && size === 0) return null;
    held = false;
    return read.call(socket, size);
  };
}

function routeFor(url: URL): UpstreamRoute {
  if (isAzure(url)) return azureRoute(url);
  const base = url.pathname.replace(/\/+$/, "").replace(/\/v1$/, "");
  return {
    origin: url.origin,
    target: base === "" ? (target) => target : (target) => base + target,
    keyHeader: (key) => ["authorization", `Bearer ${key}`],
  };
}
