import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { setImmediate as turn } from "node:timers/promises";
import { build } from "esbuild";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { search } from "../lib/repo/events.ts";
import { openSqlite } from "../lib/store/sqlite.ts";
import { expectOurs, expectRefusal } from "./support/answers.ts";
import { KEY, PASSWORD } from "./support/app.ts";
import { freePort } from "./support/ports.ts";
import { ask, request, send } from "./support/raw.ts";
import { startUpstream, type Upstream } from "./support/upstream.ts";

// The real functions-framework runs functions that are built as for the cloud, but for the store: SQLite, which a bundle leaves out.
const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-framework-"));
const database = join(folder, "proxy.db");
let upstream: Upstream;
let token: string;

beforeAll(async () => {
  symlinkSync(resolve("node_modules"), join(folder, "node_modules"));
  const name = "[dir]/index";
  await build({
    entryPoints: ["functions/user/index.ts", "functions/proxy/index.ts"],
    outdir: folder,
    outbase: "functions",
    outExtension: { ".js": ".mjs" },
    bundle: true,
    platform: "node",
    target: "node20",
    format: "esm",
    external: ["libsql", "argon2", "pg", "pg-native"],
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
    logLevel: "error",
    entryNames: name,
  });
  for (const it of ["user", "proxy"]) writeFileSync(join(folder, it, "package.json"), JSON.stringify({ main: "index.mjs" }));
  const store = openSqlite(database);
  await store.migrate();
  await store.close();
  upstream = await startUpstream();
});
afterEach(() => upstream.reset());
afterAll(async () => {
  await upstream.close();
  rmSync(folder, { recursive: true, force: true });
});

type Running = {
  url: string;
  lines: Record<string, unknown>[];
  stderr: Promise<string>;
  stop(signal: NodeJS.Signals): Promise<number | null>;
};

/** Starts a function with the framework's own command, and answers before it listens. */
async function start(name: "user" | "proxy", env: Record<string, string> = {}): Promise<Running> {
  const port = await freePort();
  const command = [
    resolve("node_modules/.bin/functions-framework"),
    `--target=${name}`,
    `--source=${join(folder, name)}`,
    `--port=${port}`,
  ];
  return run(command, port, env);
}

function run(command: string[], port: number, env: Record<string, string>): Running {
  const child: ChildProcess = spawn(process.execPath, command, {
    cwd: folder,
    env: {
      PATH: process.env.PATH,
      NODE_ENV: "production",
      API_KEY: KEY,
      API_URL: upstream.url,
      DB_ADDRESS: `file:${database}`,
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const closed = once(child, "close") as Promise<[number | null]>;
  const lines: Record<string, unknown>[] = [];
  child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
    for (const line of chunk.split("\n")) if (line.startsWith("{")) lines.push(JSON.parse(line));
  });
  const stderr = text(child.stderr as NodeJS.ReadableStream);
  onTestFinished(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await closed;
  });
  const stop = async (signal: NodeJS.Signals) => {
    child.kill(signal);
    return (await closed)[0];
  };
  return { url: `http://127.0.0.1:${port}`, lines, stderr, stop };
}

/** The answer to the very first request that a process could take. */
async function first(url: string, init: RequestInit = {}): Promise<Response> {
  for (;;) {
    try {
      return await fetch(url, init);
    } catch (error) {
      if (((error as Error).cause as NodeJS.ErrnoException)?.code !== "ECONNREFUSED") throw error;
      await turn();
    }
  }
}

const json = { "content-type": "application/json" };
const bearer = () => ({ authorization: `Bearer ${token}` });

describe("the function user under functions-framework", () => {
  test("answers for itself from the first request on, malformed JSON included, and signs people up", async () => {
    const { url, lines } = await start("user");
    const broken = await first(`${url}/user/signup`, { method: "POST", headers: json, body: '{"username":' });
    expect([broken.status, broken.headers.get("content-type")]).toEqual([400, "application/json"]);
    expect((await broken.json()).error).toMatchObject({ code: "bad_json", source: "gateway" });

    for (const [body, headers, status] of [
      ["{}", { "content-type": "application/json; charset=klingon" }, 415],
      ["{}", { ...json, "content-encoding": "gzip" }, 415],
      [`a=${"1&a=".repeat(1_500)}`, { "content-type": "application/x-www-form-urlencoded" }, 400],
      ["x".repeat(100_000), json, 413],
    ] as const) {
      const answer = await fetch(`${url}/user/signup`, { method: "POST", headers, body });
      expect([answer.status, answer.headers.get("content-type")]).toEqual([status, "application/json"]);
      expect((await answer.json()).error.source).toBe("gateway");
    }
    for (const path of ["/favicon.ico", "/robots.txt", "/nowhere"]) {
      const answer = await fetch(url + path);
      expect([answer.status, (await answer.json()).error.code]).toEqual([404, "not_found"]);
    }
    expect(await (await fetch(`${url}/`)).text()).toBe("Hello, World!");

    const signup = await fetch(`${url}/signup`, {
      method: "POST",
      headers: json,
      body: JSON.stringify({ username: "alice", password: PASSWORD }),
    });
    expect(signup.status).toBe(200);
    token = (await signup.json()).token;
    for (const path of ["/user/read", "/read"])
      expect((await (await fetch(url + path, { headers: bearer() })).json()).user.username).toBe("alice");
    expect(lines.length).toBeGreaterThan(5);
    expect(JSON.stringify(lines)).not.toContain(PASSWORD);
  });
});

describe("the function proxy under functions-framework", () => {
  test("relays at either path, byte for byte, from the first request on", async () => {
    const { url } = await start("proxy");
    const answers = [
      await first(`${url}/v1/models`, { headers: bearer() }),
      await fetch(`${url}/proxy/v1/models`, { headers: bearer() }),
    ];
    for (const answer of answers) {
      expect([answer.status, (await answer.json()).object]).toEqual([200, "list"]);
      expect(answer.headers.get("x-request-id")).toMatch(/^req_/);
    }
    expect(upstream.requests.map(({ target }) => target)).toEqual(["/v1/models", "/v1/models"]);
    expect((await fetch(`${url}/v1/models`)).status).toBe(401);
    expect((await (await fetch(`${url}/proxy/health`)).json()).status).toBe("ok");
    for (const body of ['{"broken":', "[1,2", "\u0000"]) {
      const answer = await fetch(`${url}/v1/x`, { method: "POST", headers: { ...bearer(), ...json }, body });
      expect([answer.status, upstream.requests.at(-1)?.body.toString()]).toEqual([200, body]);
    }
    const [hidden] = await send(
      url,
      request(["GET /v1/../x HTTP/1.1", "Host: h", `Authorization: Bearer ${token}`, "Connection: close"]),
    );
    expect(hidden).toMatchObject({ status: 400, json: { error: { code: "bad_target" } } });
  });

  test("streams both ways without a buffer in between", async () => {
    const { url } = await start("proxy");
    await first(`${url}/health`);
    let say = (_: string | null) => {};
    upstream.next((_, res) => {
      res.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
      say = (frame) => (frame === null ? res.end() : res.write(frame));
    });
    const answer = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { ...bearer(), ...json },
      body: '{"stream":true}',
    });
    const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
    for (const frame of ["data: 1\n\n", "data: 2\n\n"]) {
      say(frame);
      expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe(frame);
    }
    say(null);
    expect((await reader.read()).done).toBe(true);

    const client = httpRequest(`${url}/v1/files`, { method: "POST", headers: bearer() });
    client.write("the beginning");
    const recorded = await upstream.waitFor(2);
    while (recorded.body.length < 13) await turn();
    client.end(", the end");
    const [stored] = (await once(client, "response")) as [IncomingMessage];
    expect([stored.statusCode, recorded.body.toString()]).toEqual([200, "the beginning, the end"]);
    stored.resume();
  });

  test("converses by WebSocket, as its very first request too", async () => {
    const { url } = await start("proxy");
    const socket = await firstSocket(`${url.replace("http", "ws")}/v1/realtime?model=m`);
    socket.send("hi");
    const [said] = (await once(socket, "message")) as [Buffer];
    expect(said.toString()).toBe('{"type":"echo","text":"hi"}');
    socket.close();
    await once(socket, "close");
  });

  test("lets a running stream finish on SIGTERM, refuses new work, completes the event, and exits with 0", async () => {
    const { url, stop, lines } = await start("proxy");
    await first(`${url}/health`);
    let end = () => {};
    upstream.next((_, res) => {
      res.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
      end = () => res.end("data: 2\n\n");
    });
    const answer = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { ...bearer(), ...json },
      body: '{"model":"sigterm","stream":true}',
    });
    const stopped = stop("SIGTERM");
    while (
      await fetch(`${url}/health`).then(
        () => true,
        () => false,
      )
    )
      await turn();
    end();
    expect(await answer.text()).toBe("data: 1\n\ndata: 2\n\n");
    expect(await stopped).toBe(0);
    expect(lines.at(-1)).toMatchObject({ message: "POST proxy.v1 200" });
    const store = openSqlite(database);
    const [event] = await search(store, { model: "sigterm", limit: 1 });
    await store.close();
    expect(event).toMatchObject({ status: 200, responseBody: "data: 1\n\ndata: 2\n\n" });
  });

  test("greets before anything else is asked of it, as it does after that, and then exits with 0 as well", async () => {
    const { url, stop } = await start("proxy");
    const greeted = await first(`${url}/`);
    expect([greeted.status, await greeted.text()]).toEqual([200, "Hello, World!"]);
    expectOurs({ status: greeted.status, headers: greeted.headers, text: "", json: null });
    expect(greeted.headers.get("content-type")).toBe("text/html; charset=utf-8");
    expect((await fetch(`${url}/`, { method: "POST" })).status).toBe(405);
    const again = await fetch(`${url}/`);
    expect([again.status, await again.text()]).toEqual([200, "Hello, World!"]);
    const lasting = ({ headers }: Response) =>
      [...headers].filter(([name]) => !["date", "x-proxy-gpt-request-id", "connection", "keep-alive"].includes(name)).sort();
    expect(lasting(again)).toEqual(lasting(greeted));
    expect(await stop("SIGTERM")).toBe(0);
    const another = await start("proxy");
    expect(await (await first(`${another.url}/`)).text()).toBe("Hello, World!");
    expect(await another.stop("SIGTERM")).toBe(0);
  });

  test("is heard by a parser that refuses its very first bytes, with the envelope", async () => {
    const { url } = await start("proxy");
    await first(`${url}/`);
    expectRefusal(await ask(url, "NOT HTTP\r\n\r\n"), 400, "bad_request");
  });

  test("exits with 0 on SIGTERM when there is nothing to do", async () => {
    const { url, stop } = await start("proxy");
    await first(`${url}/health`);
    expect(await stop("SIGTERM")).toBe(0);
  });

  test("does not start in the cloud with a store of its own: one clear line a problem", async () => {
    const { stderr, stop } = await start("proxy", { K_SERVICE: "proxy", API_KEY: "" });
    // Nothing is asked of it: the function is found wanting as it starts to listen.
    const said = (await stderr)
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line));
    expect(said).toEqual([
      { severity: "CRITICAL", message: expect.stringContaining("DB_ADDRESS") },
      { severity: "CRITICAL", message: expect.stringContaining("API_KEY") },
    ]);
    expect(await stop("SIGTERM")).toBe(1);
  });
});

describe("the exported handler, where nothing can be taken over", () => {
  /** A server that listens before the function is loaded, and reads every body before the handler sees the request. */
  const HOST = `
    import { createServer } from "node:http";
    let handler;
    const server = createServer(async (req, res) => {
      const chunks = [];
      for await (const chunk of req) chunks.push(chunk);
      if (req.headers["content-length"] || req.headers["transfer-encoding"]) req.rawBody = Buffer.concat(chunks);
      handler(req, res);
    });
    server.listen(Number(process.argv[2]), "127.0.0.1", async () => {
      await new Promise((listening) => setImmediate(listening));
      handler = (await import(process.argv[3]))[process.argv[4]];
      process.stdout.write('{"message":"ready"}\\n');
    });`;

  async function host(name: "user" | "proxy"): Promise<string> {
    const file = join(folder, "host.mjs");
    mkdirSync(folder, { recursive: true });
    writeFileSync(file, HOST);
    const port = await freePort();
    const { url, lines } = run([file, String(port), join(folder, name, "index.mjs"), name], port, {});
    while (!lines.some(({ message }) => message === "ready")) await turn();
    return url;
  }

  test("serves endpoints with bodies that were read before", async () => {
    const url = await host("user");
    const post = (body: string) => fetch(`${url}/user/login`, { method: "POST", headers: json, body });
    expect((await post(JSON.stringify({ username: "alice", password: PASSWORD }))).status).toBe(200);
    expect((await (await post('{"username":')).json()).error.code).toBe("bad_json");
    expect((await post("x".repeat(100_000))).status).toBe(413);
    expect((await (await fetch(`${url}/user/read`, { headers: bearer() })).json()).user.username).toBe("alice");
  });

  test("relays with bodies that were read before, and streams the answers", async () => {
    const url = await host("proxy");
    expect((await (await fetch(`${url}/v1/models`, { headers: bearer() })).json()).object).toBe("list");
    for (const body of ['{"model":"m","ü":1}', '{"broken":', "", "x".repeat(1_000_000)]) {
      const answer = await fetch(`${url}/proxy/v1/x`, { method: "POST", headers: { ...bearer(), ...json }, body });
      expect([answer.status, upstream.requests.at(-1)?.body.toString()]).toEqual([200, body]);
    }
    expect((await fetch(`${url}/v1/models`, { method: "HEAD", headers: bearer() })).status).toBe(200);
    expect((await fetch(`${url}/v1/x`, { method: "POST", headers: json, body: "{}" })).status).toBe(401);
    const stream = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { ...bearer(), ...json },
      body: '{"model":"m","stream":true}',
    });
    expect(await stream.text()).toMatch(/data: \[DONE\]\n\n$/);
  });
});

async function firstSocket(url: string): Promise<WebSocket> {
  for (;;) {
    const socket = new WebSocket(url, { headers: bearer() });
    try {
      await once(socket, "open");
      return socket;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ECONNREFUSED") throw error;
      await turn();
    }
  }
}
