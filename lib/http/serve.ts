import type { IncomingMessage } from "node:http";
import type { HttpBindings } from "@hono/node-server";
import { Hono } from "hono";
import { clipText } from "../audit/clip.ts";
import { outcomeOf } from "../audit/outcome.ts";
import type { Deps } from "../deps.ts";
import { describeError } from "../log.ts";
import type { Outcome, Subject } from "../repo/ledger.ts";
import { storeError } from "../store/store.ts";
import { corsHeaders, preflightHeaders, SECURITY_HEADERS } from "./browser.ts";
import { sessionCookie } from "./credentials.ts";
import { enter, refuseAnonymous, splitTarget } from "./door.ts";
import { type AnyEndpoint, type Call, type FunctionSpec, isRelay, parseRoute, type Reply, writes } from "./endpoint.ts";
import { ApiError } from "./error.ts";
import { bodyType, parseInput, readBody } from "./input.ts";
import { probes } from "./probes.ts";
import { isUnread } from "./raw.ts";

type Methods = ReadonlyMap<string, AnyEndpoint | null>;
/** What a probe takes; it answers these itself. */
const PROBE: Methods = new Map([["GET", null]]);

/** The routes of functions, served together. Each path answers with its function's name in front, and, where one function stands alone, without. */
export function createApp(functions: readonly FunctionSpec[], deps: Deps): Hono<{ Bindings: HttpBindings }> {
  const app = new Hono<{ Bindings: HttpBindings }>();
  for (const [path, answer] of probes(functions)) {
    app.get(path, async (c) => withHeaders(await answer(deps), headersFor(c.env.incoming, deps.newId(), deps)));
  }
  for (const [path, methods] of routesOf(functions)) app.all(path, (c) => respond(c.env.incoming, methods, deps));
  for (const path of probes(functions).keys()) app.all(path, (c) => respond(c.env.incoming, PROBE, deps));
  app.all("*", (c) => respond(c.env.incoming, new Map(), deps));
  return app;
}

/** A request's event so far; `call` where one was opened, and must be completed. */
type EventSoFar = { call: Call | null; userId: string | null; subject: Subject | null; requestBody: string | null };

/** One request's whole life. */
async function respond(req: IncomingMessage, methods: Methods, deps: Deps): Promise<Response> {
  const id = deps.newId();
  const startedMs = performance.now();
  const headers = headersFor(req, id, deps);
  const target = splitTarget(req.url ?? "/");
  const event: EventSoFar = { call: null, userId: null, subject: null, requestBody: null };
  let entry: AnyEndpoint | undefined;
  let status = 200;
  let body = "";
  let error: ApiError | null = null;
  try {
    if (req.method === "OPTIONS") return options(req, methods, headers);
    entry = endpointOf(methods, req.method);
    const door = {
      endpoint: entry.name,
      access: entry.access,
      writes: writes(entry),
      audited: entry.audit !== "none",
    };
    const entered = await enter(req, id, target, door, deps);
    const { call } = entered;
    if (entered.opened) event.call = call;
    event.userId = call.caller?.userId ?? null;
    refuseAnonymous(entered, door);
    const raw = await readBody(req, entry.bodyLimit);
    const input = parseInput(entry.input, target.query, raw, raw.length > 0 ? bodyType(req) : "form");
    if (entry.audit === "bodies") event.requestBody = JSON.stringify(input);
    const grant = await entry.access.admit(call, input);
    const concerns = (userId: string) => {
      event.userId = userId;
      event.subject = { userId };
    };
    const reply = { concerns, sessionCookie: cookieSetter(headers, req, deps) };
    const result = await entry.run({ grant, input, call, deps, reply });
    body = JSON.stringify(entry.output.parse(result));
  } catch (thrown) {
    error = toApiError(thrown);
    status = error.status;
    body = JSON.stringify(error.envelope(id));
    for (const [name, value] of Object.entries(error.headers)) headers.set(name, value);
    if (error.status >= 500)
      deps.log({ severity: "ERROR", message: "request failed", requestId: id, ...describeError(error.cause ?? error) });
  }
  if (event.call) await complete(event, { status, errorCode: error?.code ?? null }, entry?.audit === "bodies" ? body : null);
  deps.log({
    severity: "INFO",
    message: `${req.method} ${target.path} ${status}`,
    requestId: id,
    endpoint: entry?.name,
    userId: event.userId,
    status,
    ms: Math.round(performance.now() - startedMs),
    code: error?.code,
  });
  headers.set("content-type", "application/json");
  if (isUnread(req)) headers.set("connection", "close");
  return new Response(body, { status, headers });
}

async function complete(
  event: EventSoFar,
  ended: Pick<Outcome, "status" | "errorCode">,
  responseBody: string | null,
): Promise<void> {
  const { call, userId, subject, requestBody } = event;
  if (!call) return;
  const { bodyBytes } = call.deps.config.audit;
  const kept = (text: string | null) => (text === null || bodyBytes === 0 ? null : clipText(text, bodyBytes));
  const bodies = { requestBody: kept(requestBody), responseBody: kept(responseBody) };
  await call.deps.ledger.close(call.id, outcomeOf(call, { ...ended, userId, subject, ...bodies }));
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

function routesOf(functions: readonly FunctionSpec[]): Map<string, Map<string, AnyEndpoint>> {
  const routes = new Map<string, Map<string, AnyEndpoint>>();
  const add = (path: string, method: string, entry: AnyEndpoint) => {
    const methods = routes.get(path) ?? new Map<string, AnyEndpoint>();
    if (methods.has(method)) throw new Error(`Two endpoints answer ${method} ${path}.`);
    routes.set(path, methods.set(method, entry));
  };
  for (const { name, endpoints } of functions) {
    for (const entry of endpoints) {
      if (isRelay(entry)) continue;
      const { methods, path } = parseRoute(entry.route);
      for (const method of methods) {
        add(path, method, entry);
        if (functions.length === 1 && path.startsWith(`/${name}/`)) add(path.slice(name.length + 1), method, entry);
      }
    }
  }
  return routes;
}

function endpointOf(methods: Methods, method = "GET"): AnyEndpoint {
  const entry = methods.get(method === "HEAD" ? "GET" : method);
  if (entry) return entry;
  if (methods.size === 0) throw new ApiError("not_found", { message: "There is no such path here." });
  throw new ApiError("method_not_allowed", { allow: allowed(methods).join(", ") });
}

const allowed = (methods: Methods): string[] => [...methods.keys(), ...(methods.has("GET") ? ["HEAD"] : []), "OPTIONS"];

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
