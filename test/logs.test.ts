import { once } from "node:events";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { readConfig } from "../lib/config.ts";
import { traceOf } from "../lib/http/trace.ts";
import { ask, open, request, write } from "./support/raw.ts";
import { type Relay, startRelay } from "./support/relay.ts";

type Line = Record<string, unknown>;
type Kind = {
  /** Makes the request, and brings it to its end. */
  make(relay: Relay): Promise<unknown>;
  /** What its line says. */
  line: { message: string; endpoint?: string; status: number; code?: string; user?: boolean };
  /** What it says besides in the cloud; null: nothing was read of the request. */
  asked: { requestMethod: string; requestUrl: string } | null;
};

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const SPAN = "b7ad6b7169203331";
const PROJECT = "team-project";
/** The proxy in front appends it; what is left of it is the client's own word. */
const FORWARDED = { "x-forwarded-for": "6.6.6.6, 203.0.113.7", "user-agent": "logs.test", traceparent: `00-${TRACE}-${SPAN}-01` };
const head = Object.entries(FORWARDED).map(([name, value]) => `${name}: ${value}`);
const chat = { model: "gpt-4o", messages: [{ role: "user", content: "a planted prompt" }] };

const bearer = ({ token }: Relay) => ({ authorization: `Bearer ${token}`, ...FORWARDED });
const call = ({ app, token }: Relay, path: string, body?: unknown) => app.call(path, { token, body, headers: FORWARDED });
const socketTo = (relay: Relay, path: string) =>
  new WebSocket(relay.app.url.replace("http", "ws") + path, { headers: bearer(relay) });

async function refusedSocket(relay: Relay, path: string) {
  const socket = socketTo(relay, path);
  socket.on("error", () => {});
  const [, answer] = await once(socket, "unexpected-response");
  await answer.toArray();
}

async function closedSocket(relay: Relay, path: string) {
  const socket = socketTo(relay, path);
  await once(socket, "open");
  socket.close();
  await once(socket, "close");
}

/** A chat to watch. */
let chatId: string;
const watching = (relay: Relay, init: RequestInit = {}) =>
  fetch(`${relay.app.url}/chat/stream?id=${chatId}`, { ...init, headers: bearer(relay) });

const KINDS: Record<string, Kind> = {
  "an endpoint": {
    make: (relay) => call(relay, "/user/read?limit=1"),
    line: { message: "GET /user/read 200", endpoint: "user.read", status: 200, user: true },
    asked: { requestMethod: "GET", requestUrl: "/user/read?limit=1" },
  },
  "an endpoint that nobody may ask unnamed": {
    make: ({ app }) => app.call("/user/read", { headers: FORWARDED }),
    line: { message: "GET /user/read 401", endpoint: "user.read", status: 401, code: "unauthenticated" },
    asked: { requestMethod: "GET", requestUrl: "/user/read" },
  },
  "a body that is no JSON": {
    make: (relay) => relay.app.call("/user/login", { body: "{", headers: { ...FORWARDED, "content-type": "application/json" } }),
    line: { message: "POST /user/login 400", endpoint: "user.login", status: 400, code: "bad_json" },
    asked: { requestMethod: "POST", requestUrl: "/user/login" },
  },
  "a path that is not there": {
    make: (relay) => call(relay, "/nowhere"),
    line: { message: "GET /nowhere 404", status: 404, code: "not_found" },
    asked: { requestMethod: "GET", requestUrl: "/nowhere" },
  },
  "a target that could be read in two ways": {
    make: ({ app }) => ask(app.url, request(["GET /a\\..\\b HTTP/1.1", "Host: h", "Connection: close", ...head])),
    line: { message: "refused 400", status: 400, code: "bad_target" },
    asked: { requestMethod: "GET", requestUrl: "/a\\..\\b" },
  },
  "an absolute target, with a password and a fragment": {
    make: ({ app }) =>
      ask(app.url, request(["GET http://me:planted@h/a?b=c#planted HTTP/1.1", "Host: h", "Connection: close", ...head])),
    line: { message: "refused 400", status: 400, code: "bad_target" },
    asked: { requestMethod: "GET", requestUrl: "/a?b=c" },
  },
  "what is no request": {
    make: ({ app }) => ask(app.url, "planted nonsense\r\n\r\n"),
    line: { message: "refused 400", status: 400, code: "bad_request" },
    asked: null,
  },
  "a stream": {
    make: async (relay) => {
      const leaving = new AbortController();
      await watching(relay, { signal: leaving.signal });
      leaving.abort();
    },
    line: { message: "GET /chat/stream 200", endpoint: "chat.stream", status: 200, user: true },
    asked: { requestMethod: "GET", requestUrl: "/chat/stream?id=CHAT" },
  },
  "a HEAD for a stream": {
    make: (relay) => watching(relay, { method: "HEAD" }),
    line: { message: "HEAD /chat/stream 200", endpoint: "chat.stream", status: 200, user: true },
    asked: { requestMethod: "HEAD", requestUrl: "/chat/stream?id=CHAT" },
  },
  "a stream of a chat that is not there": {
    make: (relay) => relay.get("/chat/stream?id=00000000-0000-7000-8000-000000000000", { headers: FORWARDED }),
    line: { message: "GET /chat/stream 404", endpoint: "chat.stream", status: 404, code: "not_found", user: true },
    asked: { requestMethod: "GET", requestUrl: "/chat/stream?id=00000000-0000-7000-8000-000000000000" },
  },
  "a WebSocket": {
    make: (relay) => closedSocket(relay, `/chat/stream?id=${chatId}`),
    line: { message: "GET /chat/stream 101", endpoint: "chat.stream", status: 101, user: true },
    asked: { requestMethod: "GET", requestUrl: "/chat/stream?id=CHAT" },
  },
  "a WebSocket where there is none": {
    make: (relay) => refusedSocket(relay, "/user/read"),
    line: { message: "GET /user/read 200", endpoint: "user.read", status: 200, user: true },
    asked: { requestMethod: "GET", requestUrl: "/user/read" },
  },
  "a call of /v1": {
    make: (relay) => call(relay, "/v1/chat/completions?x=1", chat),
    line: { message: "POST proxy.v1 200", endpoint: "proxy.v1", status: 200, user: true },
    asked: { requestMethod: "POST", requestUrl: "/v1/chat/completions?x=1" },
  },
  "a stream of /v1": {
    make: (relay) => call(relay, "/proxy/v1/chat/completions", { ...chat, stream: true }),
    line: { message: "POST proxy.v1 200", endpoint: "proxy.v1", status: 200, user: true },
    asked: { requestMethod: "POST", requestUrl: "/proxy/v1/chat/completions" },
  },
  "a call of /v1 that nobody may make unnamed": {
    make: ({ app }) => app.call("/v1/models", { headers: FORWARDED }),
    line: { message: "GET proxy.v1 401", endpoint: "proxy.v1", status: 401, code: "unauthenticated" },
    asked: { requestMethod: "GET", requestUrl: "/v1/models" },
  },
  "a call that the upstream fails": {
    make: (relay) => {
      relay.upstream.next((_req, res) => void res.writeHead(500).end());
      return call(relay, "/v1/models");
    },
    line: { message: "GET proxy.v1 500", endpoint: "proxy.v1", status: 500, user: true },
    asked: { requestMethod: "GET", requestUrl: "/v1/models" },
  },
  "a call whose client leaves": {
    make: async (relay) => {
      relay.upstream.next(() => new Promise(() => {}));
      const socket = await open(relay.app.url);
      await write(socket, request(["GET /v1/models HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, ...head]));
      await relay.upstream.waitFor(1);
      socket.destroy();
    },
    line: { message: "GET proxy.v1 499", endpoint: "proxy.v1", status: 499, code: "client_closed", user: true },
    asked: { requestMethod: "GET", requestUrl: "/v1/models" },
  },
  "an upgrade of /v1": {
    make: (relay) => closedSocket(relay, "/v1/realtime?model=gpt-realtime"),
    line: { message: "UPGRADE proxy.v1 101", endpoint: "proxy.v1", status: 101, user: true },
    asked: { requestMethod: "GET", requestUrl: "/v1/realtime?model=gpt-realtime" },
  },
  "an upgrade of /v1 that is refused": {
    make: (relay) => refusedSocket(relay, "/v1/organization/admin_api_keys"),
    line: { message: "UPGRADE proxy.v1 403", endpoint: "proxy.v1", status: 403, code: "path_denied" },
    asked: { requestMethod: "GET", requestUrl: "/v1/organization/admin_api_keys" },
  },
};

let relay: Relay;
beforeAll(async () => {
  relay = await startRelay();
  chatId = (await relay.app.call("/chat/create", { token: relay.token, body: {} })).json.id;
});
afterEach(() => relay.reset());
afterAll(() => relay.close());

/** The line of a request, once it is proven that it is the only one: another request's line has come after it. */
async function lineOf(make: (relay: Relay) => unknown): Promise<Line> {
  relay.reset();
  await make(relay);
  const ofRequests = (line: Line) => "ms" in line;
  const line = await relay.logged(ofRequests);
  const last = await relay.app.call("/user/read?last");
  await relay.logged(({ requestId }) => requestId === last.headers.get("x-proxy-gpt-request-id"));
  expect(relay.lines.filter(ofRequests)).toHaveLength(2);
  return line;
}

const expected = ({ line: { message, status, user, ...known } }: Kind): Line => ({
  severity: status >= 500 ? "ERROR" : "INFO",
  message,
  requestId: expect.stringMatching(/^[0-9a-f-]{36}$/),
  endpoint: undefined,
  code: undefined,
  userId: user ? relay.id : null,
  status,
  ms: expect.any(Number),
  ...known,
});
const kinds = Object.entries(KINDS);

describe("on one machine", () => {
  test.each(kinds)("%s leaves one line of eight fields", async (_name, kind) => {
    const line = await lineOf(kind.make);
    expect(line).toEqual(expected(kind));
    expect(JSON.stringify(line)).not.toContain("planted");
  });
});

describe("in the cloud", () => {
  beforeAll(() => void Object.assign(relay.app.deps.config, { cloud: true, project: PROJECT, trustHops: 1 }));
  afterAll(() => void Object.assign(relay.app.deps.config, { cloud: false, project: undefined, trustHops: 0 }));

  test.each(kinds)("%s leaves one line in Cloud Logging's fields", async (_name, kind) => {
    const line = await lineOf(kind.make);
    const cloud = kind.asked && {
      httpRequest: {
        ...kind.asked,
        requestUrl: kind.asked.requestUrl.replace("CHAT", chatId),
        status: kind.line.status,
        latency: expect.stringMatching(/^\d+\.\d{3}s$/),
        remoteIp: "203.0.113.7",
        userAgent: "logs.test",
        protocol: "HTTP/1.1",
      },
      "logging.googleapis.com/trace": `projects/${PROJECT}/traces/${TRACE}`,
      "logging.googleapis.com/spanId": SPAN,
      "logging.googleapis.com/trace_sampled": true,
    };
    expect(line).toEqual({ ...expected(kind), ...cloud });
    const text = JSON.stringify(line);
    for (const secret of ["planted", relay.token, "6.6.6.6"]) expect(text).not.toContain(secret);
  });

  test("the latency is what the line says in milliseconds", async () => {
    const { ms, httpRequest } = await lineOf((it) => call(it, "/user/read"));
    const { latency } = httpRequest as { latency: string };
    expect(Math.abs(Number.parseFloat(latency) * 1000 - Number(ms))).toBeLessThanOrEqual(1);
  });

  const token = () => relay.token;
  test.each([
    ["an endpoint", "/user/read?"],
    ["a stream", "/chat/stream?id=1&"],
    ["the relay", "/v1/models?"],
    ["a path that is not there", "/nowhere?"],
  ])("the address of %s holds nothing that belongs into a body", async (_what, path) => {
    const pairs = ["token", "ticket", "api-key", "api_key", "password", "to%6ben", "prompt", "content", "url"];
    const query = [...pairs.map((name) => `${name}=planted`), `other=${token()}`, token(), `${token()}=1`, "kept=1", "bare"].join(
      "&",
    );
    const line = await lineOf(({ app }) => app.call(path + query));
    const { requestUrl } = line.httpRequest as { requestUrl: string };
    expect(requestUrl).toBe(`${path}${pairs.map((name) => `${name}=`).join("&")}&other=&&=&kept=1&bare`);
    expect(JSON.stringify(line)).not.toMatch(/planted|pg[skt]_/);
  });

  const traced = async (headers: Record<string, string>) => {
    const line = await lineOf(({ app }) => app.call("/user/read", { headers }));
    return Object.fromEntries(Object.entries(line).filter(([name]) => name.startsWith("logging.")));
  };

  test("Google's own header names the trace as well", async () => {
    expect(await traced({ "x-cloud-trace-context": `${TRACE}/255;o=0` })).toEqual({
      "logging.googleapis.com/trace": `projects/${PROJECT}/traces/${TRACE}`,
      "logging.googleapis.com/spanId": "00000000000000ff",
      "logging.googleapis.com/trace_sampled": false,
    });
  });

  test.each(["nonsense", `00-${TRACE}-${SPAN}`, `00-${"0".repeat(32)}-${SPAN}-01`, `00-${TRACE}-${SPAN}-01-more`])(
    "the traceparent %j is no trace",
    async (traceparent) => expect(await traced({ traceparent })).toEqual({}),
  );

  test("without a project there is no trace to name", async () => {
    Object.assign(relay.app.deps.config, { project: undefined });
    try {
      expect(await traced({ traceparent: FORWARDED.traceparent })).toEqual({});
    } finally {
      Object.assign(relay.app.deps.config, { project: PROJECT });
    }
  });
});

describe("the trace that a request names", () => {
  test.each([
    [{ traceparent: `00-${TRACE}-${SPAN}-01` }, SPAN, true],
    [{ traceparent: `00-${TRACE}-${SPAN}-00` }, SPAN, false],
    [{ traceparent: `00-${TRACE}-${SPAN}-03` }, SPAN, true],
    [{ traceparent: `cc-${TRACE}-${SPAN}-01-what-comes-later` }, SPAN, true],
    [{ "x-cloud-trace-context": `${TRACE}/1;o=1` }, "0000000000000001", true],
    [{ "x-cloud-trace-context": `${TRACE.toUpperCase()}/18446744073709551615;o=1` }, "ffffffffffffffff", true],
    [{ "x-cloud-trace-context": `${TRACE}/0;o=1` }, null, true],
    [{ "x-cloud-trace-context": TRACE }, null, false],
    [{ traceparent: "nonsense", "x-cloud-trace-context": `${TRACE}/1;o=1` }, "0000000000000001", true],
    [{ traceparent: `00-${TRACE}-${SPAN}-01`, "x-cloud-trace-context": `${"1".repeat(32)}/1;o=0` }, SPAN, true],
  ])("%j", (headers, spanId, sampled) => expect(traceOf(headers)).toEqual({ traceId: TRACE, spanId, sampled }));

  test.each([
    {},
    { traceparent: "" },
    { traceparent: `ff-${TRACE}-${SPAN}-01` },
    { traceparent: `00-${TRACE.toUpperCase()}-${SPAN}-01` },
    { traceparent: `00-${TRACE}-${"0".repeat(16)}-01` },
    { traceparent: ` 00-${TRACE}-${SPAN}-01` },
    { traceparent: `00-${TRACE}-${SPAN}-01\n` },
    { traceparent: `00-${TRACE}-${SPAN}-01, 00-${TRACE}-${SPAN}-01` },
    { traceparent: `00-${TRACE.slice(1)}-${SPAN}-01` },
    { "x-cloud-trace-context": "" },
    { "x-cloud-trace-context": `${"0".repeat(32)}/1;o=1` },
    { "x-cloud-trace-context": `${TRACE}/18446744073709551616;o=1` },
    { "x-cloud-trace-context": `${TRACE}/-1;o=1` },
    { "x-cloud-trace-context": `${TRACE}/1;o=1;x` },
    { "x-cloud-trace-context": `${TRACE}/ff;o=1` },
  ])("%j is none", (headers) => expect(traceOf(headers)).toBeNull());
});

test("the project is known where it is set, and a wrong one stops the start", () => {
  expect(readConfig({ GOOGLE_CLOUD_PROJECT: PROJECT }).project).toBe(PROJECT);
  expect(readConfig({}).project).toBeUndefined();
  expect(() => readConfig({ GOOGLE_CLOUD_PROJECT: 'a/b"' })).toThrow("GOOGLE_CLOUD_PROJECT is not the id of a project.");
});
