import { type ClientRequest, request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Socket } from "node:net";
import { Readable } from "node:stream";
import { buildConnector, type Dispatcher, errors, Pool } from "undici";
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

export type UpstreamCall = UpstreamRequest & {
  signal: AbortSignal;
  /** How long a connection may take, if less than five seconds. */
  connectMs?: number;
};

export type UpstreamAnswer = {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** To be iterated to its end, or destroyed, which aborts the request; so does the signal, as long as it lasts. */
  body: Readable;
};

/** The model provider. The shared key exists in this closure alone. */
export type Upstream = {
  dispatch(request: UpstreamRequest, handler: Dispatcher.DispatchHandler): void;
  /**
   * Resolves with the answer's headers, whatever its status. Rejects, as the body fails, with the signal's reason or the
   * transport's error: its `code` is undici's (`UND_ERR_…`), the parser's (`HPE_…`) or the system's.
   */
  request(call: UpstreamCall): Promise<UpstreamAnswer>;
  /** Starts a request for another protocol; the caller listens to `upgrade`, `response` and `error`. */
  upgrade(target: string, headers: string[]): ClientRequest;
  close(): Promise<void>;
};
export type UpstreamOptions = {
  key: string | undefined;
  url: string | undefined;
  /** How long the first byte may take. */
  timeoutMs: number;
  /** How long a stream may stand still before it is given up: a minute unless told. */
  stallMs?: number;
};

/** Where calls go unless told. */
export const OPENAI = "https://api.openai.com";
const CONNECT_TIMEOUT_MS = 5_000;
const STALL_MS = 60_000;

export function createUpstream({ key, url, timeoutMs, stallMs = STALL_MS }: UpstreamOptions): Upstream {
  const route = routeFor(new URL(url ?? OPENAI));
  const credential = key === undefined ? [] : route.keyHeader(key);
  const pool = new Pool(route.origin, {
    connect: mendedConnector(),
    headersTimeout: timeoutMs,
    bodyTimeout: stallMs,
    keepAliveTimeout: 30_000,
    pipelining: 1,
  });
  const dispatch: Upstream["dispatch"] = ({ method, target, headers, body }, handler) => {
    headers.push(...credential);
    pool.dispatch(
      { method: method as Dispatcher.HttpMethod, path: route.target(target), headers, body: body as Buffer },
      handler,
    );
  };
  return {
    dispatch,
    request: (call) => answerTo(call, (handler) => dispatch({ ...call, headers: [...call.headers] }, handler)),
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

/**
 * Over `dispatch` rather than undici's own `request`, which neither tells when a connection stands nor, while there is none,
 * gives up when told to. Every failure is the body's, and before the headers the call's as well.
 */
function answerTo(call: UpstreamCall, dispatch: (handler: Dispatcher.DispatchHandler) => void): Promise<UpstreamAnswer> {
  const { signal, connectMs = CONNECT_TIMEOUT_MS } = call;
  return new Promise((resolve, reject) => {
    let controller: Dispatcher.DispatchController | null = null;
    let answered = false;
    /** What broke the answer in its middle. The body ends in it, once what came before is read. */
    let broken: Error | null = null;
    const body = new Readable({
      read: () => controller?.resume(),
      destroy: (error, destroyed) => {
        clearTimeout(connecting);
        signal.removeEventListener("abort", abort);
        controller?.abort(error ?? new errors.RequestAbortedError());
        destroyed(error ?? broken);
      },
    });
    body.on("error", reject);
    const connecting = setTimeout(() => body.destroy(new errors.ConnectTimeoutError()), connectMs);
    const abort = () => {
      const { reason } = signal;
      body.destroy(reason instanceof Error ? reason : new errors.RequestAbortedError(String(reason)));
    };
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort);
    dispatch({
      onRequestStart: (started) => {
        clearTimeout(connecting);
        controller = started;
        if (body.destroyed) started.abort(new errors.RequestAbortedError());
      },
      onResponseStart: (_, status, headers) => {
        if (status < 200) return;
        answered = true;
        resolve({ status, headers, body });
      },
      onResponseData: (started, chunk) => {
        if (!body.push(chunk)) started.pause();
      },
      onResponseEnd: () => void body.push(null),
      onResponseError: (_, error) => {
        if (!answered) return void body.destroy(error);
        if (body.destroyed) return;
        broken = error;
        body.push(null);
      },
    });
  });
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
