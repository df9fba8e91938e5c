import { type ClientRequest, request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { type Dispatcher, Pool } from "undici";
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
  upgrade(target: string, headers: Record<string, string | string[]>): ClientRequest;
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
    connect: { timeout: CONNECT_TIMEOUT_MS },
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
      const start = route.origin.startsWith("https:") ? httpsRequest : httpRequest;
      const [name, value] = credential;
      return start(new URL(route.origin), {
        path: route.target(target),
        headers: { ...headers, ...(name && { [name]: value }) },
        agent: false,
        timeout: timeoutMs,
      });
    },
    close: () => pool.destroy(),
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
