import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer as createHttpServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { functions } from "../../functions/all.ts";
import { readConfig } from "../../lib/config.ts";
import { createDeps } from "../../lib/deps.ts";
import { createListener, listen } from "../../lib/http/listen.ts";
import { search } from "../../lib/repo/events.ts";
import { openSqlite } from "../../lib/store/sqlite.ts";
import { KEY, PASSWORD } from "../support/app.ts";
import { answersIn, everything, open, request, send, write } from "../support/raw.ts";
import { idOf, openSockets, type Relay, settled, startRelay, until } from "../support/relay.ts";
import { faults, type Handler } from "../support/upstream.ts";
import { startWire } from "../support/wire.ts";

let relay: Relay;
beforeAll(async () => {
  relay = await startRelay();
});
afterEach(() => relay.reset());
afterAll(() => relay.close());

const chat = { model: "gpt-4o", messages: [{ role: "user", content: "hi" }] };
const streamed = { ...chat, stream: true };

describe("an upstream that does not answer", () => {
  test("refuses: 502 at once, and the event says so", async () => {
    const dead = await startRelay({ API_URL: `http://127.0.0.1:${await closedPort()}` });
    onTestFinished(() => dead.close());
    const startedAt = performance.now();
    for (const init of [{}, { method: "POST", body: "{}" }, { method: "POST", body: Buffer.alloc(600_000) }]) {
      const answer = await dead.get("/v1/x", init);
      expect([answer.status, (await answer.json()).error.code]).toEqual([502, "upstream_unreachable"]);
      expect(await dead.eventOf(answer)).toMatchObject({ status: 502, errorCode: "upstream_unreachable" });
    }
    expect(performance.now() - startedAt).toBeLessThan(5_000);
  });

  test("is back: the next request is served, without a restart", async () => {
    const wire = await startWire(Number(new URL(relay.upstream.url).port));
    const wired = await startRelay({ API_URL: wire.url(relay.upstream.url) });
    onTestFinished(async () => {
      await wired.close();
      await wire.close();
    });
    expect((await wired.ask(chat)).status).toBe(200);
    wire.refuse(true);
    wire.cut();
    expect((await wired.ask(chat)).status).toBe(502);
    wire.refuse(false);
    expect((await wired.ask(chat)).status).toBe(200);
  });

  test("hangs: 504 after UPSTREAM_TIMEOUT, for a stream, an upload and a plain request alike, and the call is given up", async () => {
    const slow = await startRelay({ UPSTREAM_TIMEOUT: "1" });
    onTestFinished(() => slow.close());
    slow.upstream.when(() => true, faults.hang());
    const inits = [{}, { method: "POST", body: JSON.stringify(streamed) }, { method: "POST", body: Buffer.alloc(600_000) }];
    const startedAt = performance.now();
    const answers = await Promise.all(inits.map((init) => slow.get("/v1/x", init)));
    expect(performance.now() - startedAt).toBeLessThan(5_000);
    for (const answer of answers) {
      expect([answer.status, (await answer.json()).error.code]).toEqual([504, "upstream_timeout"]);
      expect(await slow.eventOf(answer)).toMatchObject({ status: 504, errorCode: "upstream_timeout" });
    }
    for (const { closed } of slow.upstream.requests) expect((await closed).aborted).toBe(true);
  });

  test.each<[what: string, handler: Handler]>([
    ["resets before its headers", faults.resetBeforeHeaders()],
    ["closes without a word", ({ socket }) => void socket.end()],
    ["does not speak HTTP", ({ socket }) => void socket.end("SSH-2.0-OpenSSH_9.6\r\n")],
    ["cuts its headers", ({ socket }) => void socket.end("HTTP/1.1 200 OK\r\ncontent-ty")],
    ["sends endless headers", ({ socket }) => void socket.end(`HTTP/1.1 200 OK\r\nx: ${"a".repeat(100_000)}\r\n\r\n`)],
    [
      "tells two lengths",
      ({ socket }) => void socket.end("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
    ],
    [
      "switches protocols unasked",
      ({ socket }) => void socket.end("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
    ],
  ])("%s: 502 and no second try", async (_, handler) => {
    relay.upstream.next(handler);
    const answer = await relay.ask(streamed);
    expect([answer.status, (await answer.json()).error.code]).toEqual([502, "upstream_unreachable"]);
    expect(await relay.eventOf(answer)).toMatchObject({ status: 502, errorCode: "upstream_unreachable" });
    expect(relay.upstream.requests).toHaveLength(1);
  });

  test("says 401 with a body that never ends: the caller has 502 at once", async () => {
    relay.upstream.next((_, res) => void res.writeHead(401).write('{"error":'));
    const answer = await relay.ask(streamed);
    expect([answer.status, (await answer.json()).error.code]).toEqual([502, "upstream_key_rejected"]);
    expect((await relay.upstream.requests[0]?.closed)?.aborted).toBe(true);
  });
});

describe("an answer that is cut", () => {
  const cuts: [what: string, handler: Handler][] = [
    ["a stream, by a reset", faults.resetMidStream(3, "rst")],
    ["a stream, by a close", faults.resetMidStream(3, "fin")],
    ["a stream after its headers", faults.resetMidStream(0, "fin")],
    [
      "an answer of known length",
      ({ socket }) =>
        void socket.end("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\nword-0 word-1 word-2"),
    ],
    [
      "chunks that are none",
      ({ socket }) =>
        void socket.end(
          "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n14\r\nword-0 word-1 word-2\r\nzz\r\n",
        ),
    ],
  ];
  test.each(cuts)("%s: the client's connection is destroyed, never ended, and the event says so", async (_, handler) => {
    relay.upstream.next(handler);
    const { ended, head, bytes } = await rawAsk(streamed);
    expect(ended).toBe(false);
    expect(head).toMatch(/^HTTP\/1\.1 200 /);
    if (bytes.length > 0) expect(bytes).toContain("word-2");
    const line = await relay.logged(({ status }) => status === 502);
    const event = await relay.eventOf(idOf(line));
    expect(event).toMatchObject({ status: 502, errorCode: "upstream_reset" });
    expect(event.responseBody).toBe(bytes);
  });

  test("by the line in between: every stream on it ends in an error", async () => {
    const wire = await startWire(Number(new URL(relay.upstream.url).port));
    const wired = await startRelay({ API_URL: wire.url(relay.upstream.url) });
    onTestFinished(async () => {
      await wired.close();
      await wire.close();
    });
    relay.upstream.when(() => true, faults.stream({ chunks: 100_000, gapMs: 5 }));
    const readers = await Promise.all(Array.from({ length: 10 }, async () => readerOf(await wired.ask(streamed))));
    await Promise.all(readers.map((reader) => reader.read()));
    wire.cut();
    for (const reader of readers) await expect(drainedReader(reader)).rejects.toThrow();
    expect(wired.lines.filter(({ status }) => status === 502)).toHaveLength(10);
  });

  test("by a reset, where only the connection's end would tell its length: the same", async () => {
    const { through, upstreams } = await startBrittle([
      "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\nword-0",
    ]);
    const answer = await through.get("/v1/x");
    const reader = readerOf(answer);
    expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe("word-0");
    upstreams[0]?.resetAndDestroy();
    await expect(drainedReader(reader)).rejects.toThrow();
    expect(await through.eventOf(answer)).toMatchObject({ status: 502, errorCode: "upstream_reset", responseBody: "word-0" });
  });

  test("by the connection's end, where that is what tells its length: it is whole", async () => {
    const { through, upstreams } = await startBrittle([
      "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\nword-0",
    ]);
    const answer = await through.get("/v1/x");
    upstreams[0]?.end();
    expect(await answer.text()).toBe("word-0");
    expect(await through.eventOf(answer)).toMatchObject({ status: 200, errorCode: null });
  });

  describe("while the client makes it wait", () => {
    // The second answer waits for the first, with more than fits; so nothing more is read of it.
    const body = "x".repeat(40_000);
    const chunked = `transfer-encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n`;
    const cut: [what: string, rest: string][] = [
      ["its connection's end", `connection: close\r\n\r\n${body}`],
      ["its length", `connection: close\r\ncontent-length: 99999\r\n\r\n${body}`],
      ["its length, on a connection that was to be kept", `content-length: 99999\r\n\r\n${body}`],
      ["its last chunk", `connection: close\r\n${chunked}`],
    ];
    const whole: [what: string, rest: string][] = [
      ["its connection's end", `connection: close\r\n\r\n${body}`],
      ["its length", `connection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`],
      ["its length, on a connection that was to be kept", `content-length: ${body.length}\r\n\r\n${body}`],
      ["its last chunk", `connection: close\r\n${chunked}0\r\n\r\n`],
      ["its last chunk, on a connection that was to be kept", `${chunked}0\r\n\r\n`],
    ];
    async function waiting(rest: string) {
      const { through, upstreams } = await startBrittle(["", `HTTP/1.1 200 OK\r\n${rest}`]);
      const client = await open(through.app.url);
      const received = everything(client);
      const get = request(["GET /v1/x HTTP/1.1", "Host: h", `Authorization: Bearer ${through.token}`]);
      await write(client, get);
      await until(() => upstreams.length === 1);
      await write(client, get);
      await until(() => upstreams[1]?.bytesWritten !== undefined && upstreams[1].bytesWritten > body.length);
      for (let turns = 0; turns < 20; turns++) await turn();
      return { through, first: upstreams[0] as Socket, second: upstreams[1] as Socket, client, received };
    }

    test.each(cut)("by a reset, where %s would tell: the process lives, and the event says so", async (_, rest) => {
      const { through, second, client } = await waiting(rest);
      second.resetAndDestroy();
      await through.logged(({ status }) => status === 502);
      client.destroy();
      await through.logged(({ status }) => status === 499);
    });

    test.each(whole)("not at all, and then the upstream hangs up, where %s tells: it arrives whole", async (_, rest) => {
      const { through, first, second, client, received } = await waiting(rest);
      second.end();
      for (let turns = 0; turns < 20; turns++) await turn();
      first.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst");
      await through.logged(
        () => through.lines.filter(({ status, endpoint }) => status === 200 && endpoint === "proxy.v1").length === 2,
      );
      client.end();
      expect((await received).toString()).toContain(body);
    });
  });

  test("a stream that ends without a last word is passed on as it is: those are the upstream's bytes", async () => {
    relay.upstream.next(faults.endWithoutTerminal(3));
    const answer = await relay.ask(streamed);
    expect(await answer.text()).toMatch(/word-2 .*\n\n$/);
    expect(await relay.eventOf(answer)).toMatchObject({ status: 200, errorCode: null });
  });

  test("malformed frames are passed on as they are", async () => {
    relay.upstream.next(faults.malformedSse());
    expect(Buffer.from(await (await relay.ask(streamed)).arrayBuffer()).includes(Buffer.from([0xff, 0xfe, 0xc3, 0x0a]))).toBe(
      true,
    );
  });
});

describe("a client that goes away", () => {
  /** How long after its hang-up the upstream saw the call end. */
  async function hangUp(
    handler: Handler,
    { lines = [] as string[], body = "", reset = false, wait = "headers" as "headers" | "request" } = {},
  ) {
    relay.upstream.next(handler);
    const before = relay.upstream.requests.length;
    const client = await open(relay.app.url);
    await write(
      client,
      request(["POST /v1/chat/completions HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, ...lines], body),
    );
    const recorded = await relay.upstream.waitFor(before + 1);
    if (wait === "headers") await once(client, "data");
    const goneAt = performance.now();
    if (reset) client.resetAndDestroy();
    else client.destroy();
    const { aborted, atMs } = await recorded.closed;
    expect(aborted).toBe(true);
    const event = await relay.eventOf(idOf(await relay.logged(({ status }) => status === 499)));
    relay.reset();
    return { event, ms: atMs - goneAt };
  }
  const json = JSON.stringify(streamed);
  const whole = { lines: ["Content-Type: application/json", `Content-Length: ${json.length}`], body: json };

  test.each([false, true])(
    "mid-stream (reset: %s): the upstream's call is aborted within 100 ms and the event is 499",
    async (reset) => {
      for (let i = 0; i < 5; i++) {
        const { event, ms } = await hangUp(faults.stream({ chunks: 10_000, gapMs: 5 }), { ...whole, reset });
        expect(ms).toBeLessThan(100);
        expect(event).toMatchObject({ status: 499, errorCode: "client_closed", model: "gpt-4o", requestBody: json });
        expect(event.responseBody).toContain("data: ");
      }
    },
  );

  test.each([false, true])("before the first byte (reset: %s): the same", async (reset) => {
    for (let i = 0; i < 5; i++) {
      const { event, ms } = await hangUp(faults.hang(), { ...whole, reset, wait: "request" });
      expect(ms).toBeLessThan(100);
      expect(event).toMatchObject({ status: 499, errorCode: "client_closed", responseBody: null });
    }
  });

  test.each([
    ["of known length", ["Content-Length: 1000000"], "x".repeat(300_000)],
    ["in chunks", ["Transfer-Encoding: chunked"], `493e0\r\n${"x".repeat(300_000)}\r\n`],
    ["whose first bytes alone came", ["Content-Length: 1000000"], "x"],
  ])("during an upload %s: the same", async (_, lines, body) => {
    for (const reset of [false, true]) {
      const { event, ms } = await hangUp(faults.hang(), { lines, body, reset, wait: "request" });
      expect(ms).toBeLessThan(100);
      expect(event).toMatchObject({ status: 499, errorCode: "client_closed" });
    }
  });

  test("before its upload began: the upstream is never called, and the event is 499", async () => {
    const client = await open(relay.app.url);
    await write(
      client,
      request(["POST /v1/x HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, "Content-Length: 10"]),
    );
    await until(async () => (await search(relay.app.deps.store, { endpoint: "proxy.v1", limit: 1 }))[0]?.endedAt === null);
    client.destroy();
    expect(await relay.eventOf(idOf(await relay.logged(({ status }) => status === 499)))).toMatchObject({ status: 499 });
    expect(relay.upstream.requests).toEqual([]);
  });

  test("while its event is being opened: the upstream is never called", async () => {
    const held = await startRelay();
    onTestFinished(() => held.close());
    const store = hold(held.app.deps.store, "run");
    const before = openSockets();
    const client = await open(held.app.url);
    await write(client, request(["GET /v1/x HTTP/1.1", "Host: h", `Authorization: Bearer ${held.token}`]));
    await store.reached;
    client.resetAndDestroy();
    await until(() => openSockets() <= before);
    store.release();
    expect(await held.eventOf(idOf(await held.logged(({ status }) => status === 499)))).toMatchObject({ status: 499 });
    expect(held.upstream.requests).toEqual([]);
  });

  test("after the answer: nothing is aborted, and the event is the answer's", async () => {
    const answer = await relay.ask(chat);
    await answer.text();
    expect((await relay.upstream.requests[0]?.closed)?.aborted).toBe(false);
    expect(await relay.eventOf(answer)).toMatchObject({ status: 200, errorCode: null });
  });

  test("400 times: no socket stays behind but what the next calls use", async () => {
    const own = await startRelay();
    onTestFinished(() => own.close());
    own.upstream.when(() => true, faults.stream({ chunks: 10_000, gapMs: 5 }));
    const before = openSockets();
    const atOnce = 20;
    const abortOne = async (_: unknown, i: number) => {
      const headers = { authorization: `Bearer ${own.token}` };
      const client = httpRequest(`${own.app.url}/v1/chat/completions`, { method: "POST", agent: false, headers });
      client.on("error", () => {}).end(json);
      const [answer] = (await once(client, "response")) as [IncomingMessage];
      answer.on("error", () => {});
      if (i % 2 === 0) await once(answer, "data");
      client.destroy();
    };
    for (let round = 1; round <= 20; round++) {
      await Promise.all(Array.from({ length: atOnce }, abortOne));
      await own.logged(() => own.lines.filter(({ status }) => status === 499).length === round * atOnce);
    }
    for (const { closed } of own.upstream.requests) expect((await closed).aborted).toBe(true);
    await until(() => openSockets() <= before + atOnce);
    expect(own.upstream.requests).toHaveLength(20 * atOnce);
  });
});

describe("what does not keep pace", () => {
  test("a client that does not read stops the upstream, and loses nothing when it reads on", async () => {
    const total = 64 * MIB;
    let produced = 0;
    const server = createHttpServer((_, res: ServerResponse) => {
      res.writeHead(200, { "content-type": "text/event-stream" });
      const piece = Buffer.alloc(65_536, `data: ${"x".repeat(1000)}\n\n`);
      const more = () => {
        while (produced < total) {
          produced += piece.length;
          if (!res.write(piece)) return void res.once("drain", more);
        }
        res.end();
      };
      more();
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const slow = await startRelay({ API_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
    onTestFinished(async () => {
      await slow.close();
      server.close();
    });
    const client = httpRequest(`${slow.app.url}/v1/x`, { headers: { authorization: `Bearer ${slow.token}` } }).end();
    const [answer] = (await once(client, "response")) as [IncomingMessage];
    answer.pause();
    const memory = process.memoryUsage.rss();
    await settled(() => produced);
    // What the kernel's own buffers hold on three hops is all that may be under way.
    expect(produced).toBeLessThan(40 * MIB);
    expect(process.memoryUsage.rss() - memory).toBeLessThan(48 * MIB);
    let received = 0;
    for await (const chunk of answer as AsyncIterable<Buffer>) received += chunk.length;
    expect(received).toBe(total);
  });

  test("an upstream that does not read stops the client, and gets everything when it reads on", async () => {
    const total = 64 * MIB;
    let received = 0;
    let read = () => {};
    const server = createHttpServer(async (req, res) => {
      req.pause();
      await new Promise<void>((resolve) => {
        read = resolve;
      });
      for await (const chunk of req as AsyncIterable<Buffer>) received += chunk.length;
      res.end("ok");
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const slow = await startRelay({ API_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
    onTestFinished(async () => {
      await slow.close();
      server.close();
    });
    let sent = 0;
    const client = httpRequest(`${slow.app.url}/v1/x`, {
      method: "POST",
      headers: { authorization: `Bearer ${slow.token}`, "content-length": total },
    });
    const piece = Buffer.alloc(65_536, "x");
    const more = () => {
      while (sent < total) {
        sent += piece.length;
        if (!client.write(piece)) return void client.once("drain", more);
      }
      client.end();
    };
    more();
    await settled(() => sent);
    expect(sent).toBeLessThan(40 * MIB);
    read();
    const [answer] = (await once(client, "response")) as [IncomingMessage];
    expect((await answer.toArray()).join("")).toBe("ok");
    expect(received).toBe(total);
  });

  const early =
    (status: number): Handler =>
    (_, res) =>
      void res.writeHead(status, { "content-length": 2 }).end("no");

  test("an upstream that refuses an upload it has not read: the client has its answer, byte for byte", async () => {
    const refusal: Handler = (_, res) =>
      void res.writeHead(413, { "content-type": "application/json", connection: "close" }).end('{"error":{"code":"too_big"}}');
    for (const size of [300_000, 20 * MIB]) {
      relay.upstream.next(refusal);
      const client = httpRequest(`${relay.app.url}/v1/files`, {
        method: "POST",
        headers: { authorization: `Bearer ${relay.token}`, "content-length": size },
      });
      client.on("error", () => {});
      client.write(Buffer.alloc(290_000));
      const [answer] = (await once(client, "response")) as [IncomingMessage];
      expect([answer.statusCode, (await answer.toArray()).join("")]).toEqual([413, '{"error":{"code":"too_big"}}']);
      client.destroy();
      expect(await relay.eventOf(String(answer.headers["x-proxy-gpt-request-id"]))).toMatchObject({
        status: 413,
        errorCode: null,
      });
    }
  });

  test("and the connection goes on: what is left of the upload runs off", async () => {
    for (const [status, seen] of [
      [413, 413],
      [401, 502],
    ] as const) {
      relay.upstream.next(early(status));
      const head = ["POST /v1/files HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, "Content-Length: 3000000"];
      const upload = [request(head), ...Array.from({ length: 30 }, () => Buffer.alloc(100_000))];
      const next = request(["GET /v1/models HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, "Connection: close"]);
      const [first, second] = await send(relay.app.url, ...upload, next);
      expect(first?.status).toBe(seen);
      // Our own refusal of half a request ends the connection; the upstream's does not.
      if (seen === 413) expect(second?.status).toBe(200);
    }
  });

  test("an answer may begin before the upload ends, and both go on", async () => {
    relay.upstream.next((req, res) => {
      res.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
      req.on("data", (chunk) => res.write(chunk)).on("end", () => res.end());
    });
    const client = httpRequest(`${relay.app.url}/v1/x`, { method: "POST", headers: { authorization: `Bearer ${relay.token}` } });
    client.write("one");
    const [answer] = (await once(client, "response")) as [IncomingMessage];
    for (const word of ["two", "three"]) {
      client.write(word);
      await once(answer, "data");
    }
    client.end();
    await once(answer, "end");
    expect(relay.upstream.requests[0]?.body.toString()).toBe("onetwothree");
  });
});

describe("a client that offers an upgrade which is not taken (curl --http2)", () => {
  const offer = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];

  test("gets a long answer whole, at its own pace", async () => {
    const size = 8 * MIB;
    relay.upstream.next((_, res) => void res.writeHead(200, { "content-length": size }).end(Buffer.alloc(size, "x")));
    const client = await open(relay.app.url);
    const rest = everything(client);
    await write(client, request(["GET /v1/x HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, ...offer]));
    expect((await rest).length).toBeGreaterThan(size);
    expect(relay.upstream.requests[0]?.headers).not.toHaveProperty("upgrade");
  });

  test("and goes away: the upstream's call is aborted", async () => {
    relay.upstream.next(faults.hang());
    const client = await open(relay.app.url);
    await write(client, request(["GET /v1/x HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, ...offer]));
    const recorded = await relay.upstream.waitFor(1);
    client.destroy();
    expect((await recorded.closed).aborted).toBe(true);
    expect(await relay.eventOf(idOf(await relay.logged(({ status }) => status === 499)))).toMatchObject({ status: 499 });
  });
});

describe("an instance that is told to stop", () => {
  /** The product on a server of its own, which a test may drain, and one person. */
  async function startServer() {
    const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-drain-"));
    const lines: Record<string, unknown>[] = [];
    const env = { API_KEY: KEY, API_URL: relay.upstream.url, DB_ADDRESS: `file:${join(folder, "proxy.db")}` };
    const deps = await createDeps(readConfig(env), { log: (line) => void lines.push(line) });
    await deps.store.migrate();
    const listener = createListener(functions, deps);
    const server = await listen(listener, { port: 0, address: "127.0.0.1" });
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const signup = await fetch(`${url}/user/signup`, {
      method: "POST",
      body: JSON.stringify({ username: "alice", password: PASSWORD }),
      headers: { "content-type": "application/json" },
    });
    const headers = { authorization: `Bearer ${(await signup.json()).token}` };
    const ask = () => fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body: JSON.stringify(streamed) });
    /** What the audit log holds of `/v1` when everything is over. */
    const events = async () => {
      const store = openSqlite(join(folder, "proxy.db"));
      const found = await search(store, { endpoint: "proxy.v1", limit: 100 });
      await store.close();
      return found.map(({ status, errorCode }) => [status, errorCode]).sort();
    };
    return { url, headers, ask, events, lines, drain: (deadlineMs?: number) => listener.drain(server, deadlineMs) };
  }

  test("finishes the streams that run, refuses new work with 503, and leaves no event open", async () => {
    const it = await startServer();
    const ends: (() => void)[] = [];
    relay.upstream.when(
      ({ method }) => method === "POST",
      (_, res) => {
        res.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
        ends.push(() => res.end("data: 2\n\n"));
      },
    );
    const client = await open(it.url);
    const everythingSaid = everything(client);
    const ask = [`Authorization: ${it.headers.authorization}`, "Host: h"];
    await write(client, request(["POST /v1/chat/completions HTTP/1.1", "Content-Length: 2", ...ask], "{}"));
    await once(client, "data");
    const reader = readerOf(await it.ask());
    expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe("data: 1\n\n");
    const early = await open(it.url);
    const earlyAnswer = everything(early);
    const drained = it.drain();
    await expect(fetch(`${it.url}/health`)).rejects.toThrow();
    // A connection that is new may have been given to this instance just before: its first request is served.
    await write(early, request(["GET /health HTTP/1.1", ...ask]));
    expect(answersIn(await earlyAnswer)).toMatchObject([{ status: 200, headers: { connection: "close" } }]);
    // A connection in use is still open, and may bring more.
    await write(client, request(["GET /v1/models HTTP/1.1", ...ask]));
    await until(() => it.lines.some(({ code }) => code === "stopping"));
    for (const end of ends) end();
    expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe("data: 2\n\n");
    expect((await reader.read()).done).toBe(true);
    const [answer, refused] = answersIn(await everythingSaid);
    expect(answer).toMatchObject({ status: 200, text: "data: 1\n\ndata: 2\n\n" });
    expect(refused).toMatchObject({ status: 503, json: { error: { code: "stopping" } }, headers: { connection: "close" } });
    expect(Number(refused?.headers["retry-after"])).toBeGreaterThan(0);
    await drained;
    expect(await it.events()).toEqual([
      [200, null],
      [200, null],
    ]);
  });

  test("cuts what is still running at the deadline, WebSockets too, and leaves no event open", async () => {
    const it = await startServer();
    relay.upstream.when(({ target }) => target.endsWith("/completions"), faults.stream({ chunks: 100_000, gapMs: 5 }));
    const reader = readerOf(await it.ask());
    await reader.read();
    const socket = new WebSocket(`${it.url.replace("http", "ws")}/v1/realtime?model=m`, { headers: it.headers });
    await once(socket, "open");
    const closed = once(socket, "close");
    const gone = drainedReader(reader).then(
      () => "ended",
      () => "cut",
    );
    await it.drain(50);
    expect(await gone).toBe("cut");
    await closed;
    expect(await it.events()).toEqual([
      [101, null],
      [499, "client_closed"],
    ]);
  });
});

describe("a mistake of ours", () => {
  test.each([
    ["open", 500],
    ["close", "destroyed"],
  ] as const)("in the ledger's %s: that request alone fails (%s), the process serves on", async (method, outcome) => {
    const broken = await startRelay();
    onTestFinished(() => broken.close());
    const { ledger } = broken.app.deps;
    const real = ledger[method];
    ledger[method] = () => {
      throw new TypeError("a mistake");
    };
    const answer = await broken.ask(chat).then(
      (it) => it.status,
      () => "destroyed",
    );
    expect(answer).toBe(outcome);
    Object.assign(ledger, { [method]: real });
    expect((await broken.ask(chat)).status).toBe(200);
  });

  test("in reaching the upstream: 502, and the event is complete", async () => {
    const broken = await startRelay();
    onTestFinished(() => broken.close());
    const { upstream } = broken.app.deps;
    const real = upstream.dispatch;
    Object.assign(upstream, {
      dispatch: () => {
        throw new TypeError("a mistake");
      },
    });
    const answer = await broken.ask(chat);
    expect(answer.status).toBe(502);
    expect(await broken.eventOf(answer)).toMatchObject({ status: 502 });
    Object.assign(upstream, { dispatch: real });
    expect((await broken.ask(chat)).status).toBe(200);
  });
});

const MIB = 1024 * 1024;

/** The product before a bare TCP server that answers each connection's first bytes with the next of these, and says no more. */
async function startBrittle(answers: string[]): Promise<{ through: Relay; upstreams: Socket[] }> {
  const upstreams: Socket[] = [];
  const server = createTcpServer({ allowHalfOpen: true }, (socket) => {
    socket
      .on("error", () => {})
      .once("data", () => {
        upstreams.push(socket);
        socket.write(answers[upstreams.length - 1] ?? "");
      });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const through = await startRelay({ API_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
  onTestFinished(async () => {
    await through.close();
    for (const socket of upstreams) socket.destroy();
    server.close();
  });
  return { through, upstreams };
}

const readerOf = (answer: Response) => (answer.body as ReadableStream<Uint8Array>).getReader();
async function drainedReader(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  while (!(await reader.read()).done);
}

/** A port on which nobody listens. */
async function closedPort(): Promise<number> {
  const server = createTcpServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** What a client sees on the wire, and whether the answer was ended as HTTP ends one. */
async function rawAsk(body: unknown): Promise<{ head: string; bytes: string; ended: boolean }> {
  const text = JSON.stringify(body);
  const client = httpRequest(`${relay.app.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${relay.token}`, "content-type": "application/json" },
  }).end(text);
  const [answer] = (await once(client, "response")) as [IncomingMessage];
  let bytes = "";
  answer.on("data", (chunk) => {
    bytes += chunk;
  });
  answer.on("error", () => {});
  await new Promise((resolve) => answer.once("close", resolve));
  return { head: `HTTP/1.1 ${answer.statusCode} `, bytes, ended: answer.complete };
}

/** Holds the next call of a method back until it is released. */
function hold<T extends object>(object: T, method: keyof T): { reached: Promise<void>; release(): void } {
  const real = object[method] as (...parameters: unknown[]) => Promise<unknown>;
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  let reach = () => {};
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  const held = async (...parameters: unknown[]) => {
    Object.assign(object, { [method]: real });
    reach();
    await released;
    return real.apply(object, parameters);
  };
  Object.assign(object, { [method]: held });
  return { reached, release };
}
