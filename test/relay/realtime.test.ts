import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { setImmediate as turn } from "node:timers/promises";
import { WebSocket as BrowserSocket } from "undici";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { type ClientOptions, WebSocket } from "ws";
import { search } from "../../lib/repo/events.ts";
import { KEY } from "../support/app.ts";
import { ask, everything, open, request, send, write } from "../support/raw.ts";
import { idOf, openSockets, type Relay, settled, startRelay, until } from "../support/relay.ts";
import { faults } from "../support/upstream.ts";
import { seededBytes } from "../support/upstream-answers.ts";

let relay: Relay;
beforeAll(async () => {
  relay = await startRelay({ ALLOWED_ORIGINS: "https://app.example.com" });
});
afterEach(() => relay.reset());
afterAll(() => relay.close());

const PATH = "/v1/realtime?model=gpt-realtime";
const address = (path = PATH, { app } = relay) => app.url.replace("http", "ws") + path;
const bearer = () => ({ authorization: `Bearer ${relay.token}` });

/** An open conversation through us; what it hears is kept. */
async function converse({
  path = PATH,
  protocols = [] as string[],
  ...options
}: ClientOptions & { path?: string; protocols?: string[] } = {}) {
  const socket = new WebSocket(address(path), protocols, { headers: bearer(), ...options });
  const heard: (string | Buffer)[] = [];
  socket.on("message", (data: Buffer, isBinary) => heard.push(isBinary ? data : data.toString("utf8")));
  const [answer] = (await once(socket, "upgrade")) as [IncomingMessage];
  if (socket.readyState !== WebSocket.OPEN) await once(socket, "open");
  return { socket, answer, heard, id: String(answer.headers["x-proxy-gpt-request-id"]) };
}

/** The upstream's side of the latest conversation. */
function peer(): WebSocket {
  const latest = [...relay.upstream.sockets].at(-1);
  if (!latest) throw new Error("nobody converses");
  return latest;
}

/** The answer to an upgrade that is not taken. */
async function refused(path = PATH, options: ClientOptions = { headers: bearer() }, protocols: string[] = []) {
  const socket = new WebSocket(address(path), protocols, options);
  socket.on("error", () => {});
  const [, answer] = (await once(socket, "unexpected-response")) as [unknown, IncomingMessage];
  const text = (await answer.toArray()).join("");
  return { status: answer.statusCode, headers: answer.headers, text, json: JSON.parse(text) };
}

describe("a conversation", () => {
  test("goes both ways, text and binary, in order", async () => {
    const { socket, heard } = await converse();
    const binary = seededBytes("audio", 100_000);
    for (let i = 0; i < 50; i++) socket.send(`grüße ${i} 🎉`);
    socket.send(binary);
    while (heard.length < 51) await once(socket, "message");
    expect(heard.slice(0, 50)).toEqual(
      Array.from({ length: 50 }, (_, i) => JSON.stringify({ type: "echo", text: `grüße ${i} 🎉` })),
    );
    expect(binary.equals(heard[50] as Buffer)).toBe(true);
    socket.close();
    await once(socket, "close");
  });

  test("may be of megabytes, and both may speak at once", async () => {
    const { socket, heard } = await converse();
    const big = seededBytes("big", 4_000_000);
    for (let i = 0; i < 3; i++) socket.send(big);
    while (heard.length < 3) await once(socket, "message");
    expect(heard.every((message) => big.equals(message as Buffer))).toBe(true);
    socket.terminate();
  });

  test("carries pings and pongs, and close frames with their code and reason, each way", async () => {
    const first = await converse();
    const upstreamSocket = peer();
    first.socket.ping("are you there");
    expect(String(((await once(first.socket, "pong")) as [Buffer])[0])).toBe("are you there");
    const heardClose = once(upstreamSocket, "close");
    first.socket.close(4001, "enough");
    const [code, reason] = (await heardClose) as [number, Buffer];
    expect([code, reason.toString()]).toEqual([4001, "enough"]);

    const second = await converse();
    for (const socket of relay.upstream.sockets) socket.close(1013, "try again later");
    const [upCode, upReason] = (await once(second.socket, "close")) as [number, Buffer];
    expect([upCode, upReason.toString()]).toEqual([1013, "try again later"]);
  });

  test("is the upstream's to open: target, headers and key as for any request, and no compression", async () => {
    const { socket, answer } = await converse({
      path: "/v1/realtime?model=a%2Fb&x=1&x=2",
      protocols: ["realtime"],
      headers: {
        ...bearer(),
        "openai-beta": "realtime=v1",
        "OpenAI-Organization": "org",
        cookie: "a=b",
        "x-forwarded-for": "1.2.3.4",
      },
      perMessageDeflate: true,
    });
    const [recorded] = relay.upstream.requests;
    expect(recorded).toMatchObject({ method: "GET", target: "/v1/realtime?model=a%2Fb&x=1&x=2" });
    expect(recorded?.headers).toMatchObject({
      authorization: `Bearer ${KEY}`,
      "openai-beta": "realtime=v1",
      "sec-websocket-protocol": "realtime",
    });
    for (const name of ["sec-websocket-extensions", "openai-organization", "cookie", "x-forwarded-for", "origin"])
      expect(recorded?.headers).not.toHaveProperty(name);
    expect(recorded?.headers.host).toBe(new URL(relay.upstream.url).host);
    expect(socket.protocol).toBe("realtime");
    expect(answer.headers).toMatchObject({ "x-request-id": recorded?.id, upgrade: "websocket", connection: "Upgrade" });
    for (const name of [
      "set-cookie",
      "alt-svc",
      "strict-transport-security",
      "access-control-allow-origin",
      "sec-websocket-extensions",
    ])
      expect(answer.headers).not.toHaveProperty(name);
    socket.terminate();
  });

  test("works below /proxy too, and with the standard's own client", async () => {
    const below = await converse({ path: `/proxy${PATH}` });
    expect(relay.upstream.requests[0]?.target).toBe(PATH);
    below.socket.terminate();
    const browser = new BrowserSocket(address(), { headers: bearer(), protocols: ["realtime"] });
    await new Promise((resolve) => browser.addEventListener("open", resolve));
    expect(browser.protocol).toBe("realtime");
    browser.send("hi");
    const { data } = await new Promise<{ data: unknown }>((resolve) => browser.addEventListener("message", resolve));
    expect(data).toBe('{"type":"echo","text":"hi"}');
    browser.close(1000, "bye");
    await new Promise((resolve) => browser.addEventListener("close", resolve));
  });

  test("what a client says before the upstream answers is not lost", async () => {
    // A masked text frame, sent behind the request as no browser would.
    const frame = Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69]);
    const lines = [`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${relay.token}`, ...UPGRADE];
    const client = await open(relay.app.url);
    await write(client, Buffer.concat([request(lines), frame]));
    let heard = "";
    while (!heard.includes("echo")) heard += String(((await once(client, "data")) as [Buffer])[0]);
    expect(heard).toContain('{"type":"echo","text":"hi"}');
    client.destroy();
  });
});

describe("who may converse", () => {
  test("a token as subprotocol, as OpenAI's browser client sends its key; it stays here", async () => {
    const browser = new BrowserSocket(address(), [
      "realtime",
      `openai-insecure-api-key.${relay.token}`,
      "openai-organization.org-1",
      "openai-project.proj_1",
    ]);
    await new Promise((resolve) => browser.addEventListener("open", resolve));
    expect(browser.protocol).toBe("realtime");
    const [recorded] = relay.upstream.requests;
    expect(recorded?.headers["sec-websocket-protocol"]).toBe("realtime");
    expect(JSON.stringify(recorded?.rawHeaders)).not.toContain(relay.token);
    browser.close();
    const id = idOf(await relay.logged(({ status }) => status === 101));
    expect(await relay.eventOf(id)).toMatchObject({ userId: relay.id, status: 101 });
  });

  test("the subprotocol may stand alone", async () => {
    const socket = new WebSocket(address(), [`openai-insecure-api-key.${relay.token}`]);
    socket.on("error", () => {});
    const [answer] = (await once(socket, "upgrade")) as [IncomingMessage];
    expect(answer.statusCode).toBe(101);
    expect(relay.upstream.requests[0]?.headers).not.toHaveProperty("sec-websocket-protocol");
    socket.terminate();
  });

  test.each([
    ["nobody", {}, []],
    ["a wrong token", { authorization: "Bearer sk-x" }, []],
    ["a wrong subprotocol", {}, ["realtime", "openai-insecure-api-key.sk-x"]],
    ["an empty one", { authorization: "Bearer " }, []],
  ])("%s gets 401 in JSON, and the upstream is not called", async (_, headers, protocols) => {
    const answer = await refused(PATH, { headers }, protocols);
    expect(answer).toMatchObject({ status: 401, json: { error: { code: "unauthenticated", source: "gateway" } } });
    expect(relay.upstream.requests).toEqual([]);
  });

  test("two different credentials are 400", async () => {
    const answer = await refused(PATH, { headers: { authorization: `Bearer ${relay.token}` } }, [
      "openai-insecure-api-key.other",
    ]);
    expect(answer).toMatchObject({ status: 400, json: { error: { code: "two_credentials" } } });
    expect(relay.upstream.requests).toEqual([]);
  });

  test.each(["https://evil.example.com", "null", "http://app.example.com", "https://app.example.com.evil.com"])(
    "a page of %s gets 403, whatever credential it has",
    async (origin) => {
      const basic = Buffer.from(`${relay.username}:${relay.token}`).toString("base64");
      const credentials: [Record<string, string>, string[]][] = [
        [{ cookie: `sess=${relay.token}` }, []],
        [{ authorization: `Basic ${basic}` }, []],
        [bearer(), []],
        [{}, [`openai-insecure-api-key.${relay.token}`]],
        [{}, []],
      ];
      for (const [headers, protocols] of credentials) {
        const answer = await refused(PATH, { headers: { ...headers, origin } }, protocols);
        expect(answer).toMatchObject({ status: 403, json: { error: { code: "origin_refused" } } });
      }
      expect((await refused(PATH, { headers: { ...bearer(), "sec-fetch-site": "cross-site" } })).status).toBe(403);
      expect(relay.upstream.requests).toEqual([]);
    },
  );

  test("a page that is listed, or of our own origin, may", async () => {
    for (const headers of [{ origin: "https://app.example.com" }, { origin: "https://x", "sec-fetch-site": "same-origin" }]) {
      const { socket } = await converse({ headers: { cookie: `sess=${relay.token}`, ...headers } });
      socket.terminate();
    }
  });
});

const UPGRADE = [
  "Connection: Upgrade",
  "Upgrade: websocket",
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
  "Sec-WebSocket-Version: 13",
];

describe("an upgrade that is refused", () => {
  test.each([["7"], ["8"], ["14"], ["13, 7"], [undefined]])(
    "for version %s: 426 names ours, and nobody is called",
    async (version) => {
      const versions = version === undefined ? [] : [`Sec-WebSocket-Version: ${version}`];
      const answer = await ask(relay.app.url, request([`GET ${PATH} HTTP/1.1`, "Host: h", ...UPGRADE.slice(0, 3), ...versions]));
      expect(answer).toMatchObject({
        status: 426,
        json: { error: { code: "upgrade_required" } },
        headers: { "sec-websocket-version": "13" },
      });
      expect(relay.upstream.requests).toEqual([]);
    },
  );

  test.each([
    ["/v1/../realtime", 400],
    ["/v1/%2e%2e/realtime", 400],
    ["/v1/realtime/sessions", 403],
    ["/v1/organization/realtime", 403],
    ["//v1/realtime", 404],
    ["/user/read", 401],
  ])("at %s: %i, and the upstream is not called", async (path, status) => {
    const lines = [
      `GET ${path} HTTP/1.1`,
      "Host: h",
      ...(status === 401 ? [] : [`Authorization: Bearer ${relay.token}`]),
      ...UPGRADE,
    ];
    const [answer] = await send(relay.app.url, request(lines));
    expect([answer?.status, path]).toEqual([status, path]);
    expect(answer?.json.error.source).toBe("gateway");
    expect(relay.upstream.requests).toEqual([]);
  });

  test("by policy: PROXY_DENY holds here too, and strict lets Realtime alone through", async () => {
    for (const [env, path, status] of [
      [{ PROXY_DENY: "/v1/realtime" }, PATH, 403],
      [{ PROXY_POLICY: "strict" }, "/v1/responses?model=m", 403],
      [{ PROXY_POLICY: "strict" }, PATH, 101],
    ] as const) {
      const own = await startRelay(env);
      onTestFinished(() => own.close());
      const client = await open(own.app.url);
      await write(client, request([`GET ${path} HTTP/1.1`, "Host: h", `Authorization: Bearer ${own.token}`, ...UPGRADE]));
      const [said] = (await once(client, "data")) as [Buffer];
      expect(said.toString("latin1", 0, 13)).toBe(`HTTP/1.1 ${status} `);
      expect(own.upstream.requests).toHaveLength(status === 101 ? 1 : 0);
      client.destroy();
    }
  });

  test("by the upstream: its status, headers and body are passed on", async () => {
    const answer = await refused("/v1/realtime?model=refuse");
    expect(answer).toMatchObject({
      status: 403,
      json: { error: { code: "model_not_allowed", message: "You are not allowed to use this model." } },
    });
    expect(answer.json.error).not.toHaveProperty("source");
    expect(answer.headers["x-request-id"]).toBe(relay.upstream.requests[0]?.id);
    for (const name of ["set-cookie", "alt-svc", "strict-transport-security"]) expect(answer.headers).not.toHaveProperty(name);
    const event = await relay.eventOf(String(answer.headers["x-proxy-gpt-request-id"]));
    expect(event).toMatchObject({ status: 403, userId: relay.id, model: "refuse" });
  });

  test("by the upstream with 401: 502, without the key", async () => {
    relay.upstream.next(faults.status(401, { error: { message: `Incorrect API key provided: ${KEY}` } }));
    const answer = await refused();
    expect(answer).toMatchObject({ status: 502, json: { error: { code: "upstream_key_rejected" } } });
    expect(answer.text).not.toContain(KEY.slice(0, 8));
  });

  test("by an upstream that is cut in the middle of saying so: the connection is destroyed, not left open", async () => {
    relay.upstream.next((req, res) => {
      res.writeHead(403, { "content-length": 1000 }).write("half");
      setImmediate(() => req.socket.destroy());
    });
    const [answer] = await headOf(
      request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${relay.token}`, ...UPGRADE]),
    );
    expect(answer).toMatch(/^HTTP\/1\.1 403 /);
    expect(await relay.eventOf(idOf(await relay.logged(({ status }) => status === 502 || status === 403)))).toMatchObject({
      endedAt: expect.any(Date),
    });
  });

  test("by nobody, as nobody is there: 502; and an upstream that hangs: 504", async () => {
    const hanging = createTcpServer((socket) => socket.resume()).listen(0, "127.0.0.1");
    await once(hanging, "listening");
    const { port } = hanging.address() as AddressInfo;
    const slow = await startRelay({ API_URL: `http://127.0.0.1:${port}`, UPSTREAM_TIMEOUT: "1" });
    onTestFinished(() => slow.close());
    const lines = (token: string) => [`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${token}`, ...UPGRADE];
    expect(await ask(slow.app.url, request(lines(slow.token)))).toMatchObject({
      status: 504,
      json: { error: { code: "upstream_timeout" } },
    });
    await new Promise((resolve) => hanging.close(resolve));
    expect(await ask(slow.app.url, request(lines(slow.token)))).toMatchObject({
      status: 502,
      json: { error: { code: "upstream_unreachable" } },
    });
    const statuses = slow.lines.filter(({ endpoint }) => endpoint === "proxy.v1").map(({ status }) => status);
    expect(statuses).toEqual([504, 502]);
  });

  test("by the protocol's own rules after the handshake: the bytes are the peers' own affair", async () => {
    relay.upstream.next(({ socket }) => {
      socket.write(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-latin: caf\u00e9\r\n\r\n",
        "latin1",
      );
      socket.end(Buffer.from([0xff, 0x00, 0xfe]));
    });
    const [head, rest] = await headOf(
      request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${relay.token}`, ...UPGRADE]),
    );
    expect(head).toContain("x-latin: caf\u00e9\r\n");
    expect(rest).toEqual(Buffer.from([0xff, 0x00, 0xfe]));
  });
});

describe("when one side goes away", () => {
  test.each(["terminate", "reset"] as const)(
    "the client (%s): the upstream's side is closed, and the event complete",
    async (how) => {
      const { socket, id } = await converse();
      const upstreamSocket = peer();
      const closed = once(upstreamSocket, "close");
      if (how === "terminate") socket.terminate();
      else (socket as unknown as { _socket: Socket })._socket.resetAndDestroy();
      socket.on("error", () => {});
      await closed;
      expect(await relay.eventOf(id)).toMatchObject({ status: 101, endedAt: expect.any(Date) });
    },
  );

  test("the upstream: the client's side is closed without a close frame, and the event complete", async () => {
    for (const reset of [false, true]) {
      const { socket, id } = await converse();
      for (const it of relay.upstream.sockets) {
        if (reset) (it as unknown as { _socket: Socket })._socket.resetAndDestroy();
        else it.terminate();
      }
      expect(((await once(socket, "close")) as [number])[0]).toBe(1006);
      expect(await relay.eventOf(id)).toMatchObject({ status: 101, endedAt: expect.any(Date) });
    }
  });

  test("the client, before the upstream has answered: the call is aborted, and the event is 499", async () => {
    for (const reset of [false, true]) {
      relay.upstream.next(faults.hang());
      const client = await open(relay.app.url);
      await write(client, request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${relay.token}`, ...UPGRADE]));
      const recorded = await relay.upstream.waitFor(1);
      if (reset) client.resetAndDestroy();
      else client.destroy();
      expect((await recorded.closed).aborted).toBe(true);
      expect(await relay.eventOf(idOf(await relay.logged(({ status }) => status === 499)))).toMatchObject({
        errorCode: "client_closed",
      });
      relay.reset();
    }
  });

  test("the client, while its event is opened: the upstream is not called for long, and nothing stays open", async () => {
    const held = await startRelay();
    onTestFinished(() => held.close());
    const before = openSockets();
    const { store } = held.app.deps;
    const { run } = store;
    let release = () => {};
    const reached = new Promise<void>((resolve) => {
      Object.assign(store, {
        run: async (...statements: Parameters<typeof run>) => {
          Object.assign(store, { run });
          resolve();
          await new Promise<void>((go) => {
            release = go;
          });
          return run(...statements);
        },
      });
    });
    const client = await open(held.app.url);
    await write(client, request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${held.token}`, ...UPGRADE]));
    await reached;
    client.resetAndDestroy();
    await until(() => openSockets() <= before);
    release();
    const id = idOf(await held.logged(({ status }) => status === 499));
    expect(await held.eventOf(id)).toMatchObject({ status: 499 });
    await until(() => openSockets() <= before);
    expect(held.upstream.sockets.size).toBe(0);
  });

  test("a client that reads slowly still gets everything, down to the close frame", async () => {
    const { socket, heard } = await converse();
    const upstreamSocket = peer();
    socket.pause();
    const big = seededBytes("slow", 200_000);
    for (let i = 0; i < 60; i++) upstreamSocket.send(big);
    upstreamSocket.close(1000, "that was all");
    // The upstream has said everything when the client begins to read on.
    for (let turns = 0; turns < 200; turns++) await turn();
    socket.resume();
    const [code, reason] = (await once(socket, "close")) as [number, Buffer];
    expect([heard.length, code, reason.toString()]).toEqual([60, 1000, "that was all"]);
  });

  test("200 times, served and refused: no socket stays behind", async () => {
    const before = openSockets();
    for (let i = 0; i < 20; i++) {
      const conversations = await Promise.all(Array.from({ length: 5 }, () => converse()));
      for (const { socket } of conversations) i % 2 === 0 ? socket.terminate() : socket.close();
      await Promise.all(
        Array.from({ length: 5 }, async (_, j) =>
          refused(PATH, { headers: j % 2 === 0 ? {} : { ...bearer(), origin: "https://evil" } }),
        ),
      );
    }
    // A client that was refused and never closes its side.
    const stubborn = await open(relay.app.url);
    await write(stubborn, request([`GET ${PATH} HTTP/1.1`, "Host: h", ...UPGRADE]));
    await everything(stubborn);
    await relay.logged(() => relay.lines.filter(({ status }) => status === 101).length === 100);
    await until(() => openSockets() <= before);
    expect(relay.upstream.sockets.size).toBe(0);
  });

  test("a client that floods before the upstream answers is not buffered without bound", async () => {
    relay.upstream.next(faults.hang());
    const client = await open(relay.app.url);
    await write(client, request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${relay.token}`, ...UPGRADE]));
    await relay.upstream.waitFor(1);
    const most = 64 * 1024 * 1024;
    let sent = 0;
    const more = () => {
      while (sent < most && client.write(Buffer.alloc(65_536))) sent += 65_536;
      client.once("drain", more);
    };
    more();
    await settled(() => sent);
    // What the kernel holds of a connection that nobody reads, and no more.
    expect(sent).toBeLessThan(most / 2);
    client.destroy();
  });
});

describe("the event", () => {
  test("is there before the upstream is asked, and complete when the conversation is over", async () => {
    let during: unknown;
    relay.upstream.when(
      async ({ target }) => {
        if (target === PATH) [during] = await search(relay.app.deps.store, { endpoint: "proxy.v1", limit: 1 });
        return false;
      },
      () => {},
    );
    const { socket, id } = await converse();
    expect(during).toMatchObject({
      id,
      userId: relay.id,
      method: "GET",
      path: "/v1/realtime",
      query: "model=gpt-realtime",
      endedAt: null,
    });
    socket.send('{"type":"response.create"}');
    await once(socket, "message");
    socket.close();
    const event = await relay.eventOf(id);
    expect(event).toMatchObject({
      status: 101,
      model: "gpt-realtime",
      promptTokens: 10,
      completionTokens: 20,
      tokensEstimated: false,
      errorCode: null,
    });
    expect(event.durationMs).toBeGreaterThanOrEqual(0);
  });

  test("sums the usage of every response, however they arrive", async () => {
    const { socket, heard, id } = await converse();
    const upstreamSocket = peer();
    const done = JSON.stringify({
      type: "response.done",
      response: { usage: { total_tokens: 3, input_tokens: 1, output_tokens: 2, input_token_details: { text_tokens: 1 } } },
    });
    const line = (upstreamSocket as unknown as { _socket: Socket })._socket;
    line.cork();
    for (let i = 0; i < 25; i++) upstreamSocket.send(done);
    line.uncork();
    while (heard.length < 25) await once(socket, "message");
    socket.close();
    expect(await relay.eventOf(id)).toMatchObject({ promptTokens: 25, completionTokens: 50 });
  });

  test("has no usage where none was said, and no bodies", async () => {
    const { socket, id } = await converse();
    socket.send("a secret of the conversation");
    await once(socket, "message");
    socket.close();
    expect(await relay.eventOf(id)).toMatchObject({
      promptTokens: null,
      completionTokens: null,
      tokensEstimated: null,
      requestBody: null,
      responseBody: null,
    });
  });

  test("keeps a model's name short", async () => {
    const { socket, id } = await converse({ path: `/v1/realtime?model=${"m".repeat(2000)}` });
    socket.close();
    expect((await relay.eventOf(id)).model?.length).toBeLessThanOrEqual(128);
  });

  test("is complete even where reaching the upstream is a mistake of ours", async () => {
    const broken = await startRelay();
    onTestFinished(() => broken.close());
    Object.assign(broken.app.deps.upstream, {
      upgrade: () => {
        throw new TypeError("a mistake");
      },
    });
    const answer = await ask(
      broken.app.url,
      request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${broken.token}`, ...UPGRADE]),
    );
    expect(answer.status).toBeGreaterThanOrEqual(500);
    expect(await broken.eventOf(answer.headers["x-proxy-gpt-request-id"] ?? "")).toMatchObject({ status: answer.status });
  });
});

/** What comes back until the connection ends: the head of the answer, and all behind it. */
async function headOf(bytes: Buffer): Promise<[head: string, rest: Buffer]> {
  const client = await open(relay.app.url);
  const all = everything(client);
  await write(client, bytes);
  const answer = await all;
  const end = answer.indexOf("\r\n\r\n") + 4;
  return [answer.toString("latin1", 0, end), answer.subarray(end)];
}
