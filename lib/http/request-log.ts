import type { IncomingMessage } from "node:http";
import type { Config } from "../config.ts";
import type { Deps } from "../deps.ts";
import { describeError } from "../log.ts";
import type { RequestSpan } from "../telemetry/telemetry.ts";
import { clientAddress } from "./address.ts";
import { splitTarget } from "./door.ts";
import { type Entry, isRelay, parseRoute } from "./endpoint.ts";
import { withoutSecrets } from "./secrets.ts";
import { type TraceContext, traceOf } from "./trace.ts";

/** A request from its beginning to its line of the log. */
export type Begun = {
  readonly id: string;
  /** `performance.now()` milliseconds. */
  readonly startedMs: number;
  /** What is told of it in the cloud and to telemetry; null where nobody asks. */
  readonly seen: Seen | null;
  readonly span: RequestSpan | null;
};

/** What a request says of itself, read at its beginning: a stream forgets its headers, and an address goes with its connection. */
export type Seen = {
  readonly method: string;
  readonly path: string;
  /** Without what belongs into a body. */
  readonly query: string;
  readonly https: boolean;
  readonly httpVersion: string;
  readonly address: string;
  readonly userAgent: string | undefined;
  readonly trace: TraceContext | null;
};

/** How it ended. `what` begins the line's message, which the status ends. */
export type Ended = { what: string; entry?: Entry | undefined; userId: string | null; status: number; code: string | null };

/** Begins a request. On one machine without telemetry that is its id and the time. */
export function beginRequest(req: IncomingMessage, deps: Deps): Begun {
  const begun = beginUnread(deps);
  if (!deps.config.cloud && !deps.telemetry) return begun;
  const seen = see(req, deps.config);
  return { ...begun, seen, span: deps.telemetry?.begin(begun.id, seen) ?? null };
}

/** The same for what could not be read as a request. */
export const beginUnread = (deps: Deps): Begun => ({ id: deps.newId(), startedMs: performance.now(), seen: null, span: null });

/** Ends a request: its one line, whatever kind of request it was, and its span. Never content, never a token. */
export function endRequest({ id, startedMs, seen, span }: Begun, ended: Ended, deps: Deps): void {
  const { what, entry, userId, status, code } = ended;
  const ms = performance.now() - startedMs;
  const { cloud, project } = deps.config;
  deps.log({
    severity: status >= 500 ? "ERROR" : "INFO",
    message: `${what} ${status}`,
    requestId: id,
    endpoint: entry?.name,
    userId,
    status,
    ms: Math.round(ms),
    code: code ?? undefined,
    ...(cloud && seen && cloudFields(seen, status, ms, project)),
  });
  span?.end({ endpoint: entry?.name, route: entry && routeOf(entry), userId, status, code });
}

/** Tells what a request failed with, beside its line. */
export function logFailure(requestId: string, thrown: unknown, { log }: Deps): void {
  log({ severity: "ERROR", message: "request failed", requestId, ...describeError(thrown) });
}

/** The fields by which Cloud Logging knows a request (`HttpRequest` of its API) and the trace that it belongs to. */
function cloudFields({ method, path, query, trace, ...seen }: Seen, status: number, ms: number, project: string | undefined) {
  return {
    httpRequest: {
      requestMethod: method,
      requestUrl: query === "" ? path : `${path}?${query}`,
      status,
      latency: `${(ms / 1000).toFixed(3)}s`,
      remoteIp: seen.address,
      userAgent: seen.userAgent,
      protocol: `HTTP/${seen.httpVersion}`,
    },
    ...(trace &&
      project !== undefined && {
        "logging.googleapis.com/trace": `projects/${project}/traces/${trace.traceId}`,
        "logging.googleapis.com/spanId": trace.spanId ?? undefined,
        "logging.googleapis.com/trace_sampled": trace.sampled,
      }),
  };
}

/** Of an absolute target its origin, which may hold a password, and of any the part behind `#`, are nothing that was asked for. */
const NOT_ASKED = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*|#.*$/gis;

function see(req: IncomingMessage, { trustHops }: Config): Seen {
  const { path, query } = splitTarget((req.url ?? "/").replace(NOT_ASKED, ""));
  return {
    method: req.method ?? "",
    path,
    query: withoutSecrets(query),
    https: trustHops > 0 && req.headers["x-forwarded-proto"] === "https",
    httpVersion: req.httpVersion,
    address: clientAddress(req, trustHops),
    userAgent: req.headers["user-agent"],
    trace: traceOf(req.headers),
  };
}

const routeOf = (entry: Entry): string => (isRelay(entry) ? entry.prefix : parseRoute(entry.route).path);
