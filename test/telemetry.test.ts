import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { json, text } from "node:stream/consumers";
import { build, type Plugin } from "esbuild";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { readConfig } from "../lib/config.ts";
import { version } from "../lib/version.ts";
import { startApp } from "./support/app.ts";
import { type Relay, startRelay, until } from "./support/relay.ts";

type Attributes = Record<string, unknown>;
type Span = {
  name: string;
  kind: number;
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  status: { code?: number };
  attributes: Attributes;
};
/** A point of a metric: its count and sum where it is a histogram, else its value. */
type Point = { name: string; attributes: Attributes; value: number; count: number };
type Collector = {
  url: string;
  spans: Span[];
  /** The points of the latest export. */
  points: Point[];
  resources: Attributes[];
  paths: string[];
  bytes: string;
};

const [SERVER, CLIENT] = [2, 3];
const TRACE = "0af7651916cd43dd8448eb211c80319c";
const PARENT = "b7ad6b7169203331";

// biome-ignore lint/suspicious/noExplicitAny: OTLP's JSON, of which a test looks at a part.
type Json = any;
const plain = (list: Json[] = []): Attributes =>
  Object.fromEntries(
    list.map(({ key, value }) => [key, "intValue" in value ? Number(value.intValue) : Object.values(value as object)[0]]),
  );

/** What receives OTLP over HTTP and keeps it. `answers` false: it takes everything and never says a word. */
async function startCollector(answers = true): Promise<Collector> {
  const collector: Collector = { url: "", spans: [], points: [], resources: [], paths: [], bytes: "" };
  const server = createServer(async (req, res) => {
    const body: Json = await json(req);
    collector.paths.push(req.url ?? "");
    collector.bytes += JSON.stringify(body);
    for (const { resource, scopeSpans } of body.resourceSpans ?? []) {
      collector.resources.push(plain(resource.attributes));
      for (const { spans } of scopeSpans)
        for (const span of spans) collector.spans.push({ ...span, attributes: plain(span.attributes) });
    }
    for (const { resource, scopeMetrics } of body.resourceMetrics ?? []) {
      collector.resources.push(plain(resource.attributes));
      collector.points = scopeMetrics.flatMap(({ metrics }: Json) => metrics.flatMap(pointsOf));
    }
    if (answers) res.writeHead(200, { "content-type": "application/json" }).end("{}");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  collector.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  onFinish(() => {
    server.close();
    server.closeAllConnections();
  });
  return collector;
}

const pointsOf = ({ name, histogram, sum }: Json): Point[] =>
  (histogram ?? sum).dataPoints.map((point: Json) => ({
    name,
    attributes: plain(point.attributes),
    value: Number(point.sum ?? point.asInt ?? point.asDouble),
    count: Number(point.count ?? 0),
  }));

const endings: (() => void)[] = [];
const onFinish = (end: () => void) => void endings.push(end);
afterAll(() => {
  for (const end of endings) end();
});

const chat = { model: "gpt-4o", messages: [{ role: "user", content: "planted words" }] };

describe("with a collector", () => {
  let collector: Collector;
  let relay: Relay;
  let ids: Record<"read" | "anonymous" | "relayed" | "failed" | "prompt", string>;
  let openStreams: number | undefined;

  // A few requests, and then the end of the instance, which sends what is there.
  beforeAll(async () => {
    collector = await startCollector();
    relay = await startRelay(
      { OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.url}/`, OTEL_SERVICE_NAME: "team proxy" },
      { telemetryEveryMs: 100 },
    );
    const { app, upstream, token } = relay;
    const idOf = ({ headers }: { headers: Headers }) => String(headers.get("x-proxy-gpt-request-id"));
    const traceparent = (flags: string) => ({ traceparent: `00-${TRACE}-${PARENT}-${flags}` });
    const read = await app.call("/user/read?token=planted&limit=1", { token, headers: traceparent("01") });
    await app.call("/user/read", { token, headers: traceparent("00") });
    const anonymous = await app.call("/user/read", { headers: { traceparent: "nonsense" } });
    const relayed = await app.call("/v1/chat/completions?key=1", { token, body: chat });
    await app.call("/v1/chat/completions", { token, body: { ...chat, stream: true } });
    upstream.next((req) => void req.socket.destroy());
    const failed = await app.call("/v1/models", { token });
    const made = await app.call("/chat/create", { token, body: {} });
    const prompt = await app.call("/chat/prompt", { token, body: { id: made.json.id, prompt: "planted words" } });
    const socket = new WebSocket(`${app.url.replace("http", "ws")}/chat/stream?id=${made.json.id}`, {
      headers: { authorization: `Bearer ${token}` },
    });
    await once(socket, "open");
    const open = () => collector.points.find(({ name }) => name === "proxy_gpt.streams")?.value;
    await until(() => open() === 1);
    openStreams = open();
    socket.close();
    const realtime = new WebSocket(`${app.url.replace("http", "ws")}/v1/realtime?model=gpt-realtime`, {
      headers: { authorization: `Bearer ${token}` },
    });
    await once(realtime, "open");
    realtime.close();
    await relay.logged(({ message }) => message === "UPGRADE proxy.v1 101");
    await relay.logged(({ message }) => message === "GET /chat/stream 101");
    await relay.close();
    ids = {
      read: idOf(read),
      anonymous: idOf(anonymous),
      relayed: idOf(relayed),
      failed: idOf(failed),
      prompt: idOf(prompt),
    };
  });

  const serverSpan = (id: string) => {
    const found = collector.spans.filter(({ attributes }) => attributes["proxy_gpt.request_id"] === id);
    expect(found).toHaveLength(1);
    return found[0] as Span;
  };
  const childrenOf = ({ spanId }: Span) => collector.spans.filter(({ parentSpanId }) => parentSpanId === spanId);
  const counted = (name: string, wanted: Attributes) =>
    collector.points.filter(
      (point) => point.name === name && Object.entries(wanted).every(([key, value]) => point.attributes[key] === value),
    );

  test("spans and metrics go to their paths, under the name of the service", () => {
    expect(new Set(collector.paths)).toEqual(new Set(["/v1/traces", "/v1/metrics"]));
    const instance = collector.resources[0]?.["service.instance.id"];
    expect(instance).toMatch(/^[0-9a-f-]{36}$/);
    for (const resource of collector.resources)
      expect(resource).toEqual({
        "service.name": "team proxy",
        "service.version": version,
        "service.instance.id": instance,
      });
  });

  test("a request is one span with HTTP's attributes, below the one that it names", () => {
    expect(serverSpan(ids.read)).toMatchObject({ name: "user.read", kind: SERVER, traceId: TRACE, parentSpanId: PARENT });
    expect(serverSpan(ids.read).attributes).toEqual({
      "proxy_gpt.request_id": ids.read,
      "http.request.method": "GET",
      "http.response.status_code": 200,
      "http.route": "/user/read",
      "url.path": "/user/read",
      "url.query": "token=&limit=1",
      "url.scheme": "http",
      "client.address": "127.0.0.1",
      "network.protocol.version": "1.1",
      "user_agent.original": expect.any(String),
      "user.id": relay.id,
    });
  });

  test("a request that names no trace begins one, and nobody's user is in it where nobody is known", () => {
    const span = serverSpan(ids.anonymous);
    expect(span.parentSpanId ?? "").toBe("");
    expect(span.traceId).not.toBe(TRACE);
    expect(span.attributes).not.toHaveProperty("user.id");
    expect(span).toMatchObject({ attributes: { "http.response.status_code": 401, "error.type": "unauthenticated" } });
    // Only what failed here is an error of a server.
    expect(span.status.code ?? 0).toBe(0);
  });

  test("who decided not to keep a trace is obeyed", () => {
    expect(collector.spans.filter(({ parentSpanId }) => parentSpanId === PARENT)).toHaveLength(1);
  });

  test("a relayed call has the upstream's below it", () => {
    const span = serverSpan(ids.relayed);
    expect(span).toMatchObject({ name: "proxy.v1", attributes: { "http.route": "/v1/", "user.id": relay.id } });
    expect(childrenOf(span)).toMatchObject([{ kind: CLIENT, name: "POST", traceId: span.traceId }]);
    expect(childrenOf(span)[0]?.attributes).toEqual({
      "http.request.method": "POST",
      "http.response.status_code": 200,
      "server.address": "127.0.0.1",
      "server.port": Number(new URL(relay.upstream.url).port),
      "url.path": "/v1/chat/completions",
    });
  });

  test("a call that fails is an error, and says of what", () => {
    const span = serverSpan(ids.failed);
    expect(span).toMatchObject({ status: { code: 2 }, attributes: { "error.type": "upstream_unreachable" } });
    expect(childrenOf(span)).toMatchObject([{ status: { code: 2 }, attributes: { "error.type": expect.any(String) } }]);
  });

  test("a prompt has the model's call below it", () => {
    expect(childrenOf(serverSpan(ids.prompt))).toMatchObject([
      { kind: CLIENT, attributes: { "url.path": "/v1/chat/completions", "http.response.status_code": 200 } },
    ]);
  });

  test("streams and upgrades have their spans, once they are over", () => {
    const named = (name: string, status: number) =>
      collector.spans.filter((span) => span.name === name && span.attributes["http.response.status_code"] === status);
    expect(named("chat.stream", 101)).toHaveLength(1);
    const [upgrade, ...more] = named("proxy.v1", 101);
    expect(more).toEqual([]);
    expect(childrenOf(upgrade as Span)).toMatchObject([{ kind: CLIENT, attributes: { "url.path": "/v1/realtime" } }]);
  });

  test("requests are counted and timed by endpoint and status, sampled or not", () => {
    const requests = "http.server.request.duration";
    const [read, ...more] = counted(requests, { "proxy_gpt.endpoint": "user.read", "http.response.status_code": 200 });
    expect([read?.count, more]).toEqual([2, []]);
    expect(read?.attributes).toEqual({
      "proxy_gpt.endpoint": "user.read",
      "http.request.method": "GET",
      "http.response.status_code": 200,
      "http.route": "/user/read",
      "url.scheme": "http",
    });
    expect(read?.value).toBeGreaterThan(0);
    const relayed = { "proxy_gpt.endpoint": "proxy.v1", "http.request.method": "POST", "http.response.status_code": 200 };
    expect(counted(requests, relayed)).toMatchObject([{ count: 2 }]);
    expect(counted(requests, { "error.type": "upstream_unreachable" })).toMatchObject([{ count: 1 }]);
  });

  test("tokens are counted by model", () => {
    const used = (model: string, type: string) =>
      counted("proxy_gpt.tokens", { "gen_ai.request.model": model, "gen_ai.token.type": type })[0]?.value;
    expect(used("gpt-4o", "input")).toBeGreaterThan(0);
    expect(used("gpt-4o", "output")).toBeGreaterThan(0);
    expect(used("gpt-4o-mini", "output")).toBeGreaterThan(0);
  });

  test("open streams are counted, and no more when they are closed", () => {
    expect(openStreams).toBe(1);
    expect(counted("proxy_gpt.streams", {})).toMatchObject([{ value: 0 }]);
  });

  test("nothing of it is content, or a secret", () => {
    for (const secret of ["planted", relay.token, relay.username]) expect(collector.bytes).not.toContain(secret);
    expect(collector.bytes).not.toMatch(/pg[skt]_|sk-/);
  });
});

test("what the bus and the store do not do is counted", async () => {
  const collector = await startCollector();
  const app = await startApp({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, REDIS_ADDRESS: "redis://127.0.0.1:1" });
  expect((await app.call("/health")).json.bus.up).toBe(false);
  await app.close();
  expect(collector.points.filter(({ name }) => name === "proxy_gpt.failures")).toMatchObject([
    { value: 1, attributes: { "proxy_gpt.part": "bus", "proxy_gpt.operation": "ping" } },
  ]);
});

describe("a collector that", () => {
  const dead = async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    await new Promise((done) => server.close(done));
    return `http://127.0.0.1:${port}`;
  };

  test.each([
    ["is down", dead],
    ["never answers", async () => (await startCollector(false)).url],
  ])("%s harms no request, and holds up no stop", async (_what, start) => {
    const relay = await startRelay({ OTEL_EXPORTER_OTLP_ENDPOINT: await start() }, { telemetryEveryMs: 20 });
    const slowest = { ms: 0 };
    for (let n = 0; n < 50; n++) {
      const startedMs = performance.now();
      const answer = await relay.app.call("/v1/chat/completions", { token: relay.token, body: chat });
      expect(answer.status).toBe(200);
      slowest.ms = Math.max(slowest.ms, performance.now() - startedMs);
    }
    expect(slowest.ms).toBeLessThan(3_000);
    const startedMs = performance.now();
    await relay.close();
    expect(performance.now() - startedMs).toBeLessThan(4_500);
    // It is told once, whatever is tried meanwhile.
    expect(relay.lines.filter(({ message }) => message === "telemetry not sent").length).toBeLessThanOrEqual(1);
    expect(relay.lines.filter(({ severity }) => severity === "ERROR")).toEqual([]);
  });

  test("is down is told in the log", async () => {
    const relay = await startRelay({ OTEL_EXPORTER_OTLP_ENDPOINT: await dead() }, { telemetryEveryMs: 20 });
    expect(await relay.logged(({ message }) => message === "telemetry not sent")).toMatchObject({ severity: "WARNING" });
    await relay.close();
  });
});

describe("what is loaded", () => {
  const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-telemetry-"));
  onFinish(() => rmSync(folder, { recursive: true, force: true }));

  // Packages stay outside, so that each that is loaded is a module of its own, in Node's cache.
  beforeAll(async () => {
    for (const part of ["node_modules", "package.json", "schema"]) symlinkSync(resolve(part), join(folder, part));
    await build({
      entryPoints: ["cli/main.ts"],
      outdir: join(folder, "dist/local"),
      outExtension: { ".js": ".mjs" },
      splitting: true,
      bundle: true,
      packages: "external",
      platform: "node",
      format: "esm",
      target: "node20",
      logLevel: "error",
    });
    const report = `
      import { createRequire } from "node:module";
      import { writeSync } from "node:fs";
      const { cache } = createRequire(import.meta.url);
      process.once("exit", () => {
        const loaded = Object.keys(cache).filter((path) => path.includes("@opentelemetry"));
        writeSync(2, JSON.stringify({ modules: Object.keys(cache).length, loaded: loaded.length }));
      });`;
    writeFileSync(join(folder, "report.mjs"), report);
  });

  /** How many CommonJS modules a server had loaded at its end, and how many of OpenTelemetry's among them (all of which are such). */
  async function loadedBy(env: Record<string, string>): Promise<{ modules: number; loaded: number }> {
    const words = ["--import", join(folder, "report.mjs"), join(folder, "dist/local/main.mjs"), "start"];
    const child = spawn(process.execPath, words, {
      cwd: folder,
      env: { PATH: process.env.PATH, PORT: "0", API_KEY: "sk-of-a-test", DB_ADDRESS: `file:${join(folder, "proxy.db")}`, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    onTestFinished(() => void child.kill("SIGKILL"));
    const told = text(child.stderr);
    let out = "";
    const address = await new Promise<string>((found) =>
      child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
        out += chunk;
        const url = /listens on (http:\S+?)"/.exec(out)?.[1];
        if (url) found(url);
      }),
    );
    expect((await fetch(`${address}/user/read`)).status).toBe(401);
    expect((await fetch(`${address}/v1/models`)).status).toBe(401);
    child.kill("SIGTERM");
    return JSON.parse(await told);
  }

  test("is nothing of OpenTelemetry, unless a collector is set", async () => {
    const without = await loadedBy({ OTEL_SERVICE_NAME: "unused" });
    expect(without.modules).toBeGreaterThan(0);
    expect(without.loaded).toBe(0);
    const collector = await startCollector();
    expect((await loadedBy({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url })).loaded).toBeGreaterThan(50);
    expect(collector.resources[0]).toMatchObject({ "service.name": "proxy-gpt" });
    expect(collector.spans.map(({ name }) => name).sort()).toEqual(["proxy.v1", "user.read"]);
  });

  test("by a function's bundle is the adapter alone, and only when it is asked for", async () => {
    const importers: { path: string; kind: string }[] = [];
    const spy: Plugin = {
      name: "spy",
      setup: ({ onResolve }) =>
        onResolve({ filter: /telemetry\/otel\.ts$|^@opentelemetry\// }, ({ importer, kind }) => {
          if (!importer.includes("node_modules")) importers.push({ path: importer.replace(/^.*\/lib\//, "lib/"), kind });
          return undefined;
        }),
    };
    const result = await build({
      entryPoints: ["functions/proxy/index.ts"],
      bundle: true,
      write: false,
      metafile: true,
      platform: "node",
      format: "esm",
      target: "node20",
      external: ["libsql", "argon2", "pg", "pg-native"],
      plugins: [spy],
      logLevel: "error",
    });
    expect(Object.keys(result.metafile.inputs).some((path) => path.includes("@opentelemetry/sdk-trace/"))).toBe(true);
    expect(importers.filter(({ path }) => path !== "lib/telemetry/otel.ts")).toEqual([
      { path: "lib/deps.ts", kind: "dynamic-import" },
    ]);
  });
});

test("the settings: no collector by default, a name of our own or the function's, and an address that is one", () => {
  const endpoint = "http://localhost:4318";
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint };
  const cloud = { K_SERVICE: "chat", DB_ADDRESS: "postgresql://u:p@ep-one.neon.tech/db" };
  expect(readConfig({ OTEL_SERVICE_NAME: "x" }).telemetry).toBeNull();
  expect(readConfig(env).telemetry).toEqual({ endpoint, service: "proxy-gpt" });
  expect(readConfig({ ...env, ...cloud }).telemetry).toEqual({ endpoint, service: "chat" });
  expect(readConfig({ ...env, ...cloud, OTEL_SERVICE_NAME: "x" }).telemetry).toEqual({ endpoint, service: "x" });
  expect(() => readConfig({ OTEL_EXPORTER_OTLP_ENDPOINT: "localhost:4318" })).toThrow("OTEL_EXPORTER_OTLP_ENDPOINT");
});
