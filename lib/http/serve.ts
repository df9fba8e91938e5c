import type { IncomingMessage, ServerResponse } from "node:http";
import type { HttpBindings } from "@hono/node-server";
import { Hono } from "hono";
import type { Deps } from "../deps.ts";
import { storeError } from "../store/store.ts";
import { admitted } from "./admission.ts";
import { type StreamedAnswer, streamedAnswer } from "./answer.ts";
import { corsHeaders, preflightHeaders, SECURITY_HEADERS } from "./browser.ts";
import { hasCredential, sessionCookie } from "./credentials.ts";
import { splitTarget, type Target } from "./door.ts";
import { type AnyEndpoint, type FunctionSpec, isEndpoint, type Reply } from "./endpoint.ts";
import { ApiError } from "./error.ts";
import { complete, type EventSoFar, newEvent } from "./event.ts";
import { Frame } from "./frame.ts";
import { probes } from "./probes.ts";
import { isUnread } from "./raw.ts";
import { beginRequest, endRequest, logFailure } from "./request-log.ts";
import { allowed, entryOf, type Methods, routesOf } from "./routes.ts";
import type { Viewer } from "./viewer.ts";
import type { Viewers } from "./viewers.ts";

/** What a probe takes; it answers these itself. */
const PROBE: Methods = new Map([["GET", null]]);
/** Tells the server that the answer went out past it. */
const ALREADY_SENT = { "x-hono-already-sent": "true" };

/** The endpoints of functions, served together; their streams and relays are the listener's to serve. */
export function createApp(functions: readonly FunctionSpec[], deps: Deps, viewers: Viewers): Hono<{ Bindings: HttpBindings }> {
  const app = new Hono<{ Bindings: HttpBindings }>();
  const routes = routesOf(functions);
  const answering = (methods: Methods, { env }: { env: HttpBindings }, parameters = {}) =>
    respond({ req: env.incoming, res: env.outgoing as ServerResponse, methods, parameters }, viewers, deps);
  for (const [path, answer] of probes(functions)) {
    const methods: Methods = new Map([...PROBE, ...(routes.get(path) ?? [])]);
    // Where a function's root is an endpoint that reads, whoever says who they are asks for that, and anyone else for a greeting.
    const reads = methods.get("GET") !== null;
    app.get(path, async (c) => {
      const { incoming } = c.env;
      if (reads && (path !== "/" || hasCredential(incoming))) return answering(methods, c);
      return withHeaders(await answer(deps), headersFor(incoming, deps.newId(), deps));
    });
    app.all(path, (c) => answering(methods, c));
    routes.delete(path);
  }
  for (const [path, methods] of routes) app.all(path, (c) => answering(methods, c, c.req.param()));
  app.all("*", (c) => answering(new Map(), c));
  return app;
}

type Asked = { req: IncomingMessage; res: ServerResponse; methods: Methods; parameters: Record<string, string> };

/** One request's whole life. */
async function respond({ req, res, methods, parameters }: Asked, viewers: Viewers, deps: Deps): Promise<Response> {
  const begun = beginRequest(req, deps);
  const { id } = begun;
  const headers = headersFor(req, id, deps);
  const target = splitTarget(req.url ?? "/");
  const event = newEvent();
  let entry: AnyEndpoint | undefined;
  let stream: StreamedAnswer | null = null;
  let status = 200;
  let body = "";
  let error: ApiError | null = null;
  try {
    if (req.method === "OPTIONS") return options(req, methods, headers);
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
    for (const [name, value] of Object.entries(error.headers)) headers.set(name, value);
    if (error.status >= 500) logFailure(id, error.cause ?? error, deps);
  }
  // What was begun as a stream ends as one.
  stream?.viewer.end(error?.code ?? null, error && stream.viewer.begun ? new Frame(body, { event: "failed" }) : undefined);
  await complete(event, { status, errorCode: error?.code ?? null }, body);
  const what = `${req.method} ${target.path}`;
  const userId = event.known.userId ?? null;
  endRequest(begun, { what, entry, userId, status, code: error?.code ?? null }, deps);
  if (stream?.finish()) return new Response(null, { headers: ALREADY_SENT });
  headers.set("content-type", "application/json");
  if (isUnread(req)) headers.set("connection", "close");
  return new Response(body, { status, headers });
}

type Answering = Pick<Asked, "req" | "res"> & {
  event: EventSoFar;
  target: Target;
  headers: Headers;
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
      headers.set("link", `<?${parameters}>; rel="next"`);
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

/** The headers that every answer of ours carries, refusals included. */
export function headersFor(req: IncomingMessage, id: string, deps: Deps): Headers {
  const cors = corsHeaders(req.headers.origin, deps.config.allowedOrigins);
  return new Headers({ ...SECURITY_HEADERS, ...cors, "x-proxy-gpt-request-id": id });
}

/** Streams are found before they come here. */
function endpointOf(methods: Methods, method?: string): AnyEndpoint {
  const entry = entryOf(methods, method);
  if (!isEndpoint(entry)) throw new ApiError("not_found", { message: "There is no such path here." });
  return entry;
}

/** What may be asked here: a browser's preflight, and anyone's OPTIONS. */
function options(req: IncomingMessage, methods: Methods, headers: Headers): Response {
  if (methods.size === 0) throw new ApiError("not_found", { message: "There is no such path here." });
  headers.set("allow", allowed(methods).join(", "));
  for (const [name, value] of Object.entries(preflightHeaders(req.headers, allowed(methods)))) headers.set(name, value);
  return new Response(null, { status: 204, headers });
}

function cookieSetter(headers: Headers, req: IncomingMessage, { config }: Deps): Reply["sessionCookie"] {
  const origin = req.headers.origin;
  const crossSite = origin !== undefined && config.allowedOrigins.has(origin);
  return (token, seconds) => {
    headers.append("set-cookie", sessionCookie(token, seconds, { secure: !isLoopback(req), crossSite }));
  };
}

/** On loopback there is no TLS to protect a cookie, and none is needed. */
const isLoopback = ({ socket, headers }: IncomingMessage) =>
  headers["x-forwarded-for"] === undefined && /^(127\.|::1$|::ffff:127\.)/.test(socket.remoteAddress ?? "");

function withHeaders(response: Response, headers: Headers): Response {
  for (const [name, value] of headers) response.headers.set(name, value);
  return response;
}
