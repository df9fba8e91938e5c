import type { IncomingMessage, ServerResponse } from "node:http";
import { METHOD_NAME_ALL } from "hono/router";
import { TrieRouter } from "hono/router/trie-router";
import type { Deps } from "../deps.ts";
import { storeError } from "../store/store.ts";
import { admitted } from "./admission.ts";
import { type StreamedAnswer, streamedAnswer } from "./answer.ts";
import { preflightHeaders } from "./browser.ts";
import { hasCredential, sessionCookie } from "./credentials.ts";
import { splitTarget, type Target } from "./door.ts";
import { type AnyEndpoint, type FunctionSpec, isEndpoint, type Reply } from "./endpoint.ts";
import { ApiError } from "./error.ts";
import { complete, type EventSoFar, newEvent } from "./event.ts";
import { Frame } from "./frame.ts";
import { type Probe, probes } from "./probes.ts";
import { type AnswerHeaders, headersFor, send } from "./raw.ts";
import { beginRequest, endRequest, logFailure } from "./request-log.ts";
import { allowed, entryOf, type Methods, routesOf, unescaped, unescapedParameter } from "./routes.ts";
import type { Viewer } from "./viewer.ts";
import type { Viewers } from "./viewers.ts";

/** What a probe takes; it answers these itself. */
const PROBE: Methods = new Map([["GET", null]]);
const NOWHERE: Place = { methods: new Map(), probe: null };

/** What is at a path. */
type Place = { methods: Methods; probe: Probe | null };
export type Responder = (req: IncomingMessage, res: ServerResponse) => Promise<void>;

/** Answers for the endpoints of functions, served together; their streams and relays are the listener's to serve. */
export function createResponder(functions: readonly FunctionSpec[], deps: Deps, viewers: Viewers): Responder {
  const find = placeFinder(functions);
  return async (req, res) => {
    const target = splitTarget(req.url ?? "/");
    const { place, parameters } = find(target.path);
    const { methods, probe } = place;
    if (probe && isProbed(req, target.path, methods)) {
      const { status = 200, type, body } = await probe(deps);
      send(req, res, status, { ...headersFor(req, deps.newId(), deps), "content-type": type }, body);
      return;
    }
    await respond({ req, res, target, methods, parameters }, viewers, deps);
  };
}

type Found = { place: Place; parameters: Record<string, string> };

/** Finds what is at a path as a URL has it. */
function placeFinder(functions: readonly FunctionSpec[]): (path: string) => Found {
  const router = new TrieRouter<Place>();
  const routes = routesOf(functions);
  for (const [path, probe] of probes(functions)) {
    router.add(METHOD_NAME_ALL, path, { methods: new Map([...PROBE, ...(routes.get(path) ?? [])]), probe });
    routes.delete(path);
  }
  for (const [path, methods] of routes) router.add(METHOD_NAME_ALL, path, { methods, probe: null });
  return (path) => {
    const [first] = router.match(METHOD_NAME_ALL, unescaped(path))[0];
    if (!first) return { place: NOWHERE, parameters: {} };
    const [place, found] = first as [Place, Record<string, string>];
    return { place, parameters: Object.fromEntries(Object.entries(found).map(([name, it]) => [name, unescapedParameter(it)])) };
  };
}

/** Where a function's root is an endpoint that reads, whoever says who they are asks for that, and anyone else for a greeting. */
const isProbed = (req: IncomingMessage, path: string, methods: Methods) =>
  (req.method === "GET" || req.method === "HEAD") && (methods.get("GET") === null || (path === "/" && !hasCredential(req)));

type Asked = {
  req: IncomingMessage;
  res: ServerResponse;
  target: Target;
  methods: Methods;
  parameters: Record<string, string>;
};

/** One request's whole life. */
async function respond({ req, res, target, methods, parameters }: Asked, viewers: Viewers, deps: Deps): Promise<void> {
  const begun = beginRequest(req, deps);
  const { id } = begun;
  const headers = headersFor(req, id, deps);
  const event = newEvent();
  let entry: AnyEndpoint | undefined;
  let stream: StreamedAnswer | null = null;
  let status = 200;
  let body = "";
  let error: ApiError | null = null;
  try {
    if (req.method === "OPTIONS") return send(req, res, 204, { ...headers, ...options(req, methods) }, null);
    entry = endpointOf(methods, req.method);
    const { call, input, grant } = await admitted(entry, { req, id, target, parameters, deps }, event);
    stream = await streamedAnswer(entry, input, call, req, res, headers, viewers);
    const reply = replyFor({ event, req, res, target, headers, deps, stream: stream?.viewer ?? null });
    const result = await entry.run({ grant, input, call, deps, reply });
    body = JSON.stringify(entry.output.parse(result));
  } catch (thrown) {
    error = toApiError(thrown);
    status = error.status;
    body = JSON.stringify(error.envelope(id));
    Object.assign(headers, error.headers);
    if (error.status >= 500) logFailure(id, error.cause ?? error, deps);
  }
  // What was begun as a stream ends as one.
  stream?.viewer.end(error?.code ?? null, error && stream.viewer.begun ? new Frame(body, { event: "failed" }) : undefined);
  await complete(event, { status, errorCode: error?.code ?? null }, body);
  const what = `${req.method} ${target.path}`;
  const userId = event.known.userId ?? null;
  endRequest(begun, { what, entry, userId, status, code: error?.code ?? null }, deps);
  if (stream?.finish()) return;
  send(req, res, status, { ...headers, "content-type": "application/json" }, body);
}

type Answering = Pick<Asked, "req" | "res" | "target"> & {
  event: EventSoFar;
  headers: AnswerHeaders;
  deps: Deps;
  stream: Viewer | null;
};

/** What a handler may do besides answering. */
function replyFor({ event, req, res, target, headers, deps, stream }: Answering): Reply {
  let leaving: AbortController | undefined;
  return {
    stream,
    get gone() {
      leaving ??= leavingOf(res);
      return leaving.signal;
    },
    next: (cursor) => {
      const parameters = new URLSearchParams(target.query);
      parameters.set("cursor", cursor);
      headers.link = `<?${parameters}>; rel="next"`;
    },
    concerns: (subject) => {
      event.known.subject = subject;
      if (subject.userId) event.known.userId = subject.userId;
    },
    account: (known) => Object.assign(event.known, known),
    sessionCookie: cookieSetter(headers, req, deps),
  };
}

function leavingOf(res: ServerResponse): AbortController {
  const leaving = new AbortController();
  const leave = () => leaving.abort(new ApiError("client_closed"));
  if (res.destroyed) leave();
  else res.once("close", leave);
  return leaving;
}

/** What any thrown value is to the caller: a refusal as it is, a store that is down, or a fixed text. */
export function toApiError(thrown: unknown): ApiError {
  if (thrown instanceof ApiError) return thrown;
  const store = storeError(thrown);
  if (store && !store.permanent) return new ApiError("store_unavailable", { cause: store });
  return new ApiError("internal", { cause: store ?? thrown });
}

/** Streams are found before they come here. */
function endpointOf(methods: Methods, method?: string): AnyEndpoint {
  const entry = entryOf(methods, method);
  if (!isEndpoint(entry)) throw new ApiError("not_found", { message: "There is no such path here." });
  return entry;
}

/** What may be asked here: a browser's preflight, and anyone's OPTIONS. */
function options(req: IncomingMessage, methods: Methods): AnswerHeaders {
  if (methods.size === 0) throw new ApiError("not_found", { message: "There is no such path here." });
  return { allow: allowed(methods).join(", "), ...preflightHeaders(req.headers, allowed(methods)) };
}

function cookieSetter(headers: AnswerHeaders, req: IncomingMessage, { config }: Deps): Reply["sessionCookie"] {
  const origin = req.headers.origin;
  const crossSite = origin !== undefined && config.allowedOrigins.has(origin);
  return (token, seconds) => {
    headers["set-cookie"] = sessionCookie(token, seconds, { secure: !isLoopback(req), crossSite });
  };
}

/** On loopback there is no TLS to protect a cookie, and none is needed. */
const isLoopback = ({ socket, headers }: IncomingMessage) =>
  headers["x-forwarded-for"] === undefined && /^(127\.|::1$|::ffff:127\.)/.test(socket.remoteAddress ?? "");
