import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { azureRoute, isAzure } from "../../lib/llm/azure.ts";
import { KEY } from "../support/app.ts";
import { ask, type RawAnswer, request, send } from "../support/raw.ts";
import { type Relay, startRelay } from "../support/relay.ts";
import { faults, type Recorded } from "../support/upstream.ts";
import { chatUsage, seededBytes, sse } from "../support/upstream-answers.ts";

let relay: Relay;
beforeAll(async () => {
  relay = await startRelay();
});
afterEach(() => relay.reset());
afterAll(() => relay.close());

/** One raw request with the person's token; every line after the first may be given. */
const raw = (target: string, { method = "GET", lines = [] as string[], body = "" as string | Buffer } = {}): Promise<RawAnswer> =>
  ask(
    relay.app.url,
    request(
      [`${method} ${target} HTTP/1.1`, "Host: h", `Authorization: Bearer ${relay.token}`, "Connection: close", ...lines],
      body,
    ),
  );

/** The upstream's own view of a header: every value, in order. */
const values = ({ rawHeaders }: Recorded, name: string): string[] =>
  rawHeaders.filter((_, i) => i % 2 === 1 && rawHeaders[i - 1]?.toLowerCase() === name);
const names = ({ rawHeaders }: Recorded): string[] => rawHeaders.filter((_, i) => i % 2 === 0).map((name) => name.toLowerCase());

describe("the request target", () => {
  test.each([
    ...["//evil/v1/x", "http://evil/v1/x", "https://evil/v1/x", "@evil/v1/x", "*", "v1/models", ""],
    ...["/v1", "/V1/models", "/v1\\models", "/v1%2Fmodels", "/%76%31/models", "/v1?x", "/proxy/v1", "/proxy//v1/models"],
    ...["/v1/../organization/users", "/v1/x/../../organization/users", "/v1/..", "/v1/.", "/v1/./models", "/v1/x/.."],
    ...[
      "/v1/%2e%2e/organization",
      "/v1/%2E%2E/x",
      "/v1/.%2e/x",
      "/v1/%2e./x",
      "/v1/%2e",
      "/v1/..%2fx",
      "/v1/..%2Fx",
      "/v1/x%2f..",
    ],
    ...["/v1/%252e%252e/x", "/v1/%25252e%25252e/x", "/v1/..%252fx", "/v1/%2525252525252e"],
    ...["/v1/..\\x", "/v1/x\\..\\y", "/v1/%5c..%5cx", "/v1/a%5Cb", "/v1/a%255cb", "/v1/\\evil/x"],
    ...["/v1/a%00b", "/v1/a?b=%00", "/v1/a%2500", "/v1/a\u0000b", "/v1/a%0d%0aHost:%20evil", "/v1/a\tb", "/v1/a%7f"],
    ...["/v1/%zz", "/v1/%", "/v1/%4", "/v1/a?b=%zz", "/v1/a?b=100%", "/v1/a#fragment", "/v1/a b", "/v1/gr\u00c3\u00bcn"],
  ])("%j is refused in JSON and never reaches the upstream", async (target) => {
    const answer = await raw(target);
    expect([400, 404]).toContain(answer.status);
    expect(answer.json.error).toMatchObject({ source: "gateway", request_id: expect.any(String) });
    expect(relay.upstream.requests).toEqual([]);
  });

  test.each([
    ...[
      "/v1/models",
      "/v1/",
      "/v1/a%2Fb",
      "/v1/a%2fb/c",
      "/v1/files//content",
      "/v1//files",
      "/v1/files/",
      "/v1/x?",
      "/v1/x??a=?",
    ],
    ...[
      "/v1/x?a=1&a=2&a[]=3",
      "/v1/x?&&=&a",
      "/v1/x?url=http://evil/../..&path=/v1/../x",
      "/v1/x?a=%2e%2e%2f",
      "/v1/x?a=b/c:d@e",
    ],
    ...[
      "/v1/%41%62%7e~",
      "/v1/x%20y",
      "/v1/x?q=a+b%20c",
      "/v1/ft:gpt-4o:org::id",
      "/v1/...",
      "/v1/.hidden",
      "/v1/a..b",
      "/v1/x;a=1,b!$&'()*",
    ],
    ...[
      "/v1/gr%C3%BC%C3%9Fe",
      "/v1/x?q=%f0%9f%8e%89",
      '/v1/x?q={}|^`[]"<>',
      "/v1/100%25",
      "/v1/x?q=100%25&r=%2541",
      "/v1/x?q=a%0Ab%09c%2500%5C&next=%252e%252e%252f",
    ],
  ])("%j arrives as it was sent, below either prefix", async (target) => {
    for (const prefix of ["", "/proxy"]) expect((await raw(prefix + target)).status).toBe(200);
    expect(relay.upstream.requests.map((recorded) => recorded.target)).toEqual([target, target]);
  });

  test("a target of thousands of characters arrives whole", async () => {
    const target = `/v1/x?q=${"0123456789%20".repeat(700)}`;
    await raw(target);
    expect(relay.upstream.requests[0]?.target).toBe(target);
  });

  test.each<[what: string, lines: string[], body?: string]>([
    ["two Hosts", ["GET /v1/models HTTP/1.1", "Host: a", "Host: b"]],
    ["an absolute form", ["GET http://evil/v1/models HTTP/1.1", "Host: evil"]],
    ["no version", ["GET /v1/models"]],
    ["HTTP/0.9", ["GET /v1/models HTTP/0.9", "Host: a"]],
    ["HTTP/2.0", ["GET /v1/models HTTP/2.0", "Host: a"]],
    [
      "both a length and chunks",
      ["POST /v1/x HTTP/1.1", "Host: a", "Content-Length: 4", "Transfer-Encoding: chunked"],
      "0\r\n\r\n",
    ],
    ["two lengths", ["POST /v1/x HTTP/1.1", "Host: a", "Content-Length: 4", "Content-Length: 5"], "12345"],
    ["a length that is none", ["POST /v1/x HTTP/1.1", "Host: a", "Content-Length: +4"], "1234"],
    ["an unknown coding", ["POST /v1/x HTTP/1.1", "Host: a", "Transfer-Encoding: gzip"], "1234"],
    ["chunks that are not last", ["POST /v1/x HTTP/1.1", "Host: a", "Transfer-Encoding: chunked, identity"], "0\r\n\r\n"],
    ["a folded header", ["GET /v1/x HTTP/1.1", "Host: a", "X-A: 1", " 2"]],
    ["a space before the colon", ["GET /v1/x HTTP/1.1", "Host: a", "X-A : 1"]],
    ["a control character in a value", ["GET /v1/x HTTP/1.1", "Host: a", "X-A: 1\u00002"]],
  ])("%s is refused with 400 and never reaches the upstream", async (_, [first = "", ...lines], body = "") => {
    const bytes = request([first, `Authorization: Bearer ${relay.token}`, "Connection: close", ...lines], body);
    const [answer] = await send(relay.app.url, bytes);
    expect(answer).toMatchObject({ status: 400, json: { error: { source: "gateway" } } });
    expect(relay.upstream.requests).toEqual([]);
  });

  test("a second request hidden in the body of the first is read as its body", async () => {
    const hidden = "GET /v1/hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    const answer = await raw("/v1/x", { method: "POST", lines: [`Content-Length: ${hidden.length}`], body: hidden });
    expect(answer.status).toBe(200);
    expect(relay.upstream.requests.map(({ target, body }) => [target, body.toString()])).toEqual([["/v1/x", hidden]]);
  });
});

describe("methods", () => {
  test.each(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])("%s goes through, with a body and without", async (method) => {
    const body = Buffer.from('{"ü":1}');
    expect((await raw("/v1/x", { method })).json).toMatchObject({ method, body: { bytes: 0 } });
    const lines = ["Content-Type: application/json", `Content-Length: ${body.length}`];
    const answer = await raw("/v1/x", { method, lines, body });
    expect(answer.json).toMatchObject({ method, body: { bytes: body.length, sha256: sha256(body) } });
    expect(relay.upstream.requests[1]?.headers).toMatchObject({ "content-type": "application/json", "content-length": "8" });
  });

  test("HEAD has the answer's headers and no body", async () => {
    const answer = await relay.get("/v1/models", { method: "HEAD" });
    expect([answer.status, await answer.text()]).toEqual([200, ""]);
    const whole = await relay.get("/v1/models");
    expect(relay.upstream.requests.map(({ method }) => method)).toEqual(["HEAD", "GET"]);
    expect(answer.headers.get("content-type")).toBe(whole.headers.get("content-type"));
  });

  test.each(["TRACE", "PROPFIND", "LOCK"])("%s is 405 with what is allowed, and goes nowhere", async (method) => {
    const answer = await raw("/v1/models", { method });
    expect(answer).toMatchObject({ status: 405, json: { error: { code: "method_not_allowed" } } });
    expect(answer.headers.allow).toBe("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    expect(relay.upstream.requests).toEqual([]);
  });

  test("CONNECT opens nothing", async () => {
    const bytes = request(["CONNECT evil:443 HTTP/1.1", "Host: evil:443", `Authorization: Bearer ${relay.token}`]);
    expect((await send(relay.app.url, bytes)).every(({ status }) => status >= 400)).toBe(true);
    expect(relay.upstream.requests).toEqual([]);
  });

  test("a preflight is answered here; another OPTIONS is not one", async () => {
    const preflight = await fetch(`${relay.app.url}/v1/chat/completions`, {
      method: "OPTIONS",
      headers: {
        origin: "https://app",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-a,authorization",
      },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get("access-control-allow-origin")).toBe("*");
    expect(preflight.headers.get("access-control-allow-headers")).toBe("x-a,authorization");
    expect(preflight.headers.get("access-control-allow-methods")).toContain("PATCH");
    expect(relay.upstream.requests).toEqual([]);
    await relay.get("/v1/x", { method: "OPTIONS", headers: { origin: "https://app" } });
    expect(relay.upstream.requests.map(({ method }) => method)).toEqual(["OPTIONS"]);
  });
});

describe("request headers", () => {
  test("go through as they are: case, order, repetition, bytes above ASCII", async () => {
    const lines = [
      "X-Repeat: one",
      "x-repeat: two",
      "X-REPEAT: one",
      "X-Latin: caf\u00e9",
      "X-Empty:",
      "OpenAI-Beta: assistants=v2",
    ];
    await raw("/v1/x", { lines: [...lines, "User-Agent: me/1", "Accept-Encoding: gzip;q=0", "Idempotency-Key: k"] });
    const [recorded] = relay.upstream.requests;
    if (!recorded) throw new Error("the upstream was not called");
    expect(values(recorded, "x-repeat")).toEqual(["one", "two", "one"]);
    expect(recorded.rawHeaders).toEqual(expect.arrayContaining(["X-Repeat", "x-repeat", "X-REPEAT"]));
    expect(recorded.headers).toMatchObject({
      "x-latin": "caf\u00e9",
      "x-empty": "",
      "openai-beta": "assistants=v2",
      "user-agent": "me/1",
    });
    expect(recorded.headers).toMatchObject({ "accept-encoding": "gzip;q=0", "idempotency-key": "k" });
  });

  test("that are ours or one connection's stay here, and those that Connection names", async () => {
    const stay = {
      ...{ cookie: "sess=x; other=y", "x-api-key": "k", "api-key": "k", "proxy-authorization": "Basic eA==", te: "trailers" },
      ...{ "keep-alive": "timeout=5", "proxy-connection": "keep-alive", trailer: "x-t", forwarded: "for=1.2.3.4", via: "1.1 x" },
      ...{ "x-forwarded-for": "1.2.3.4", "x-forwarded-host": "evil", "x-forwarded-proto": "https", "x-forwarded-port": "1" },
      ...{
        "x-forwarded-ssl": "on",
        "x-forwarded-prefix": "/x",
        "x-real-ip": "1.2.3.4",
        "x-client-ip": "1",
        "cf-connecting-ip": "1",
      },
      ...{
        "true-client-ip": "1",
        "x-appengine-user-ip": "1.2.3.4",
        "x-cloud-trace-context": "t",
        "x-serverless-authorization": "Bearer g",
      },
      ...{
        "openai-organization": "org-x",
        "openai-project": "proj_x",
        "x-named": "1",
        "x-named-too": "2",
        expect: "100-continue",
      },
    };
    const lines = Object.entries(stay).map(([name, value]) => `${name}: ${value}`);
    await raw("/v1/x", {
      method: "POST",
      lines: [...lines, "Connection: X-Named ,x-named-TOO", "Content-Length: 2", "X-Kept: 1"],
      body: "{}",
    });
    const [recorded] = relay.upstream.requests;
    if (!recorded) throw new Error("the upstream was not called");
    expect(names(recorded).filter((name) => name in stay)).toEqual([]);
    expect(recorded.headers["x-kept"]).toBe("1");
    expect(values(recorded, "host")).toEqual([new URL(relay.upstream.url).host]);
    expect(values(recorded, "authorization")).toEqual([`Bearer ${KEY}`]);
  });

  test("a caller's Host, destination headers and body do not change the destination", async () => {
    const elsewhere = [
      "X-Forwarded-Host: evil",
      "X-Original-URL: /v1/organization",
      "X-Rewrite-URL: /evil",
      "X-HTTP-Method-Override: DELETE",
    ];
    const body = JSON.stringify({ url: "http://evil", base_url: "http://evil", baseURL: "http://evil" });
    await raw("/v1/x", { method: "POST", lines: [...elsewhere, `Content-Length: ${body.length}`], body });
    expect(relay.upstream.requests.map(({ method, target }) => [method, target])).toEqual([["POST", "/v1/x"]]);
  });

  test("without API_KEY no credential is sent, ours least of all", async () => {
    const keyless = await startRelay({ API_KEY: "" });
    onTestFinished(() => keyless.close());
    expect((await keyless.get("/v1/models", { headers: { cookie: "sess=x" } })).status).toBe(200);
    const { headers } = keyless.upstream.requests[0] as Recorded;
    expect(headers).not.toHaveProperty("authorization");
    expect(headers).not.toHaveProperty("cookie");
    expect(JSON.stringify(headers)).not.toContain(keyless.token);
  });
});

describe("response headers", () => {
  test("come back as they are, but for what would bind our users", async () => {
    relay.upstream.next(({ socket }) => {
      const kept = [
        "X-One: 1",
        "x-one: 2",
        "OpenAI-Version: 2020-10-01",
        "X-Latin: caf\u00e9",
        "Cache-Control: max-age=5",
        "Vary: Accept",
      ];
      const gone = ["Set-Cookie: a=1", "Set-Cookie: b=2", "Alt-Svc: h3", "Strict-Transport-Security: max-age=1"];
      const cors = [
        "Access-Control-Allow-Origin: https://other",
        "Access-Control-Allow-Credentials: true",
        "Access-Control-X: 1",
      ];
      const hop = [
        "Connection: close, X-Hop",
        "Connection: X-Hop-Too",
        "X-Hop: 1",
        "X-Hop-Too: 1",
        "Keep-Alive: timeout=1",
        "Proxy-Authenticate: Basic",
        "Upgrade: h2c",
      ];
      const lines = [
        "HTTP/1.1 200 OK",
        "Content-Type: text/plain",
        "Content-Length: 2",
        "X-Request-Id: req_up",
        ...kept,
        ...gone,
        ...cors,
        ...hop,
      ];
      socket.end(Buffer.from(`${lines.join("\r\n")}\r\n\r\nok`, "latin1"));
    });
    const answer = await raw("/v1/x");
    const back = (name: string): string[] => answer.rawHeaders.filter(([key]) => key === name).map(([, value]) => value);
    expect(back("x-one")).toEqual(["1", "2"]);
    expect(answer.headers).toMatchObject({
      "openai-version": "2020-10-01",
      "x-latin": "caf\u00e9",
      "cache-control": "max-age=5",
      vary: "Accept",
    });
    expect(answer.headers).toMatchObject({
      "x-request-id": "req_up",
      "x-proxy-gpt-request-id": expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
    for (const gone of [
      "set-cookie",
      "alt-svc",
      "strict-transport-security",
      "x-hop",
      "x-hop-too",
      "proxy-authenticate",
      "upgrade",
      "access-control-x",
    ])
      expect(back(gone)).toEqual([]);
    expect(back("access-control-allow-origin")).toEqual(["*"]);
    expect(back("access-control-allow-credentials")).toEqual([]);
    expect(back("connection")).toEqual(["close"]);
    expect(back("date")).toHaveLength(1);
  });

  test("that Connection names are the upstream's alone: it cannot take ours away", async () => {
    relay.upstream.next((_, res) => {
      const hop = "x-hop, x-content-type-options, access-control-allow-origin, x-proxy-gpt-request-id";
      res.writeHead(200, ["Connection", hop, "X-Hop", "1", "Content-Length", "0", "X-Proxy-Gpt-Request-Id", "forged"]).end();
    });
    const answer = await raw("/v1/x");
    expect(answer.headers).toMatchObject({ "x-content-type-options": "nosniff", "access-control-allow-origin": "*" });
    expect(answer.headers["x-proxy-gpt-request-id"]).toMatch(/^[0-9a-f-]{36}$/);
    expect(answer.headers).not.toHaveProperty("x-hop");
  });

  test("CORS is ours: a listed origin gets itself once, and may read our ids", async () => {
    const listed = await startRelay({ ALLOWED_ORIGINS: "https://app.example.com" });
    onTestFinished(() => listed.close());
    const answer = await listed.get("/v1/models", { headers: { origin: "https://app.example.com" } });
    expect(answer.headers.get("access-control-allow-origin")).toBe("https://app.example.com");
    expect(answer.headers.get("access-control-allow-credentials")).toBe("true");
    expect(answer.headers.get("access-control-expose-headers")).toContain("x-proxy-gpt-request-id");
    const other = await listed.get("/v1/models", { headers: { origin: "https://evil.example.com" } });
    expect(other.headers.get("access-control-allow-origin")).toBe("*");
    expect(other.headers.get("access-control-allow-credentials")).toBe(null);
  });
});

describe("answers", () => {
  test.each([200, 201, 202, 206, 400, 402, 404, 408, 418, 451, 500, 503, 599])(
    "status %i with its text and body",
    async (status) => {
      const body = Buffer.from([0, 255, 10, 13, 34, 123, 0xc3]);
      relay.upstream.next((_, res) => void res.writeHead(status, "As It Likes", { "content-length": body.length }).end(body));
      const answer = await raw("/v1/x");
      expect([answer.status, answer.reason]).toEqual([status, "As It Likes"]);
      expect(Buffer.from(answer.text).equals(Buffer.from(body.toString("utf8")))).toBe(true);
    },
  );

  test("a status without text, and one with bytes above ASCII, are still that status", async () => {
    for (const reason of ["", "Trop de requ\u00eates"]) {
      relay.upstream.next(
        ({ socket }) => void socket.end(Buffer.from(`HTTP/1.1 429 ${reason}\r\ncontent-length: 2\r\n\r\nno`, "latin1")),
      );
      expect(await raw("/v1/x")).toMatchObject({ status: 429, text: "no" });
    }
  });

  test.each([204, 304])("%i has no body, and the connection goes on", async (status) => {
    relay.upstream.next((_, res) => void res.writeHead(status, { etag: '"x"' }).end());
    const bytes = (close: string) =>
      request(["GET /v1/x HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, `Connection: ${close}`]);
    const [first, second] = await send(relay.app.url, bytes("keep-alive"), bytes("close"));
    expect(first).toMatchObject({ status, text: "", headers: { etag: '"x"' } });
    expect(second?.status).toBe(200);
  });

  test.each([301, 302, 303, 307, 308])("a redirect (%i) is passed on, not followed", async (status) => {
    relay.upstream.next(faults.redirect(`${relay.upstream.url}/v1/elsewhere`, status));
    const answer = await relay.get("/v1/x", { method: "POST", body: "{}" });
    expect([answer.status, answer.headers.get("location")]).toEqual([status, `${relay.upstream.url}/v1/elsewhere`]);
    expect(relay.upstream.requests).toHaveLength(1);
  });

  test("interim answers are not taken for the answer", async () => {
    relay.upstream.next((_, res) => {
      res.writeProcessing();
      res.writeEarlyHints({ link: "</x>; rel=preload", "x-early": "1" });
      res.writeHead(201, { "content-length": 4 }).end("done");
    });
    const answer = await raw("/v1/x");
    expect(answer).toMatchObject({ status: 201, text: "done" });
    expect(answer.headers).not.toHaveProperty("x-early");
  });

  test("to HTTP/1.0 end with the connection", async () => {
    const bytes = request(
      [
        "POST /v1/chat/completions HTTP/1.0",
        `Authorization: Bearer ${relay.token}`,
        "Content-Type: application/json",
        "Content-Length: 38",
      ],
      '{"model":"gpt-4o","stream":true,"a":1}',
    );
    const answer = await ask(relay.app.url, bytes);
    expect(answer.headers).not.toHaveProperty("transfer-encoding");
    expect(answer.text.endsWith("data: [DONE]\n\n")).toBe(true);
  });

  test("pipelined requests are answered in their order", async () => {
    let first: ServerResponse | undefined;
    relay.upstream.next((_, res) => {
      first = res;
    });
    relay.upstream.when(
      ({ target }) => target === "/v1/second",
      (_, res) => {
        res.end("second");
        first?.end("first");
      },
    );
    const bytes = (path: string, close: string) =>
      request([`GET ${path} HTTP/1.1`, "Host: h", `Authorization: Bearer ${relay.token}`, `Connection: ${close}`]);
    const answers = await send(relay.app.url, Buffer.concat([bytes("/v1/first", "keep-alive"), bytes("/v1/second", "close")]));
    expect(answers.map(({ text }) => text)).toEqual(["first", "second"]);
  });

  test.each([
    ["gzip", gzipSync],
    ["x-gzip", gzipSync],
    ["deflate", deflateSync],
    ["br", brotliCompressSync],
  ])("%s is passed on as it is, and its usage is read", async (coding, compress) => {
    const body = compress(JSON.stringify({ model: "gpt-4o", choices: [], usage: chatUsage }));
    const headers = { "content-encoding": coding, "content-type": "application/json" };
    relay.upstream.next(faults.status(200, body, headers));
    const answer = await ask(
      relay.app.url,
      request(
        [
          "POST /v1/chat/completions HTTP/1.1",
          "Host: h",
          `Authorization: Bearer ${relay.token}`,
          "Content-Length: 2",
          "Connection: close",
        ],
        "{}",
      ),
    );
    expect(answer.headers).toMatchObject({ "content-encoding": coding, "content-length": String(body.length) });
    expect(answer.text).toBe(body.toString("utf8"));
    const event = await relay.eventOf(answer.headers["x-proxy-gpt-request-id"] ?? "");
    expect(event).toMatchObject({ promptTokens: 9, completionTokens: 12, tokensEstimated: false, model: "gpt-4o" });
  });

  test.each(["gzip", "br", "zstd", "constructor", "__proto__", "gzip, br"])(
    "what calls itself %s and is not is passed on all the same",
    async (coding) => {
      relay.upstream.next(
        faults.status(200, "not compressed", { "content-encoding": coding, "content-type": "application/json" }),
      );
      const answer = await raw("/v1/x");
      expect(answer).toMatchObject({ status: 200, text: "not compressed" });
      expect(await relay.eventOf(answer.headers["x-proxy-gpt-request-id"] ?? "")).toMatchObject({
        status: 200,
        promptTokens: null,
      });
    },
  );
});

describe("bodies", () => {
  test("in chunks arrive whole, however they are cut", async () => {
    const body = seededBytes("upload", 600_000);
    for (const size of [600_000, 65_536, 4_099]) {
      const parts = Array.from({ length: Math.ceil(body.length / size) }, (_, i) => body.subarray(i * size, (i + 1) * size));
      const chunked = parts.flatMap((part) => [Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from("\r\n")]);
      const answer = await raw("/v1/x", {
        method: "POST",
        lines: ["Transfer-Encoding: chunked"],
        body: Buffer.concat([...chunked, Buffer.from("0\r\n\r\n")]),
      });
      expect(answer.json.body).toEqual({ bytes: body.length, sha256: sha256(body) });
    }
  });

  test("of every size around the read-ahead arrive whole", async () => {
    for (const size of [0, 1, 16_383, 16_384, 65_536, 262_143, 262_144, 262_145, 600_000]) {
      const body = seededBytes(`size${size}`, size);
      const answer = await relay.get("/v1/x", { method: "POST", body });
      expect((await answer.json()).body).toEqual({ bytes: size, sha256: sha256(body) });
    }
  });

  test("that wait for leave to come (Expect: 100-continue) get it, and arrive whole", async () => {
    const body = seededBytes("expected", 400_000);
    const headers = { authorization: `Bearer ${relay.token}`, expect: "100-continue", "content-length": body.length };
    const client = httpRequest(`${relay.app.url}/v1/x`, { method: "POST", headers });
    client.flushHeaders();
    await once(client, "continue");
    client.end(body);
    const [answer] = (await once(client, "response")) as [IncomingMessage];
    expect(JSON.parse((await answer.toArray()).join("")).body).toEqual({ bytes: body.length, sha256: sha256(body) });
    expect(relay.upstream.requests[0]?.headers).not.toHaveProperty("expect");
  });

  test("a body that is not JSON, and says it is, goes through", async () => {
    for (const body of ["{", "", "\u0000", '{"a":1}{"b":2}', "[".repeat(5000)]) {
      const answer = await relay.get("/v1/x", { method: "POST", body, headers: { "content-type": "application/json" } });
      expect((await answer.json()).body).toEqual({ bytes: body.length, sha256: sha256(Buffer.from(body)) });
    }
  });

  test("64 MiB up and 64 MiB down stream through bounded memory, byte for byte", async () => {
    const big = await startBig();
    const through = await startRelay({ API_URL: big.url });
    onTestFinished(async () => {
      await through.close();
      big.close();
    });
    await transfer(through, 4);
    const peak = watchMemory();
    const { sent, stored, received, served } = await transfer(through, 64);
    expect(stored).toBe(sent);
    expect(received).toBe(served);
    expect(peak()).toBeLessThan(48 * MIB);
  });

  test("any cutting of a stream gives the same bytes and the same account", async () => {
    const piece = (content: string) => sse({ id: "c", model: "gpt-4o", choices: [{ index: 0, delta: { content } }] });
    const bytes = Buffer.from(
      `${["Straße ", "日本", "🎉", 'a "usage": {"prompt_tokens":1} b'].map(piece).join("")}${sse({ choices: [], usage: chatUsage })}data: [DONE]\n\n`,
    );
    for (let trial = 0; trial < Number(process.env.TRIALS ?? 60); trial++) {
      const random = mulberry(trial);
      const sizes = trial === 0 ? [1] : Array.from({ length: 64 }, () => Math.floor(random() ** 3 * 200));
      relay.upstream.next(faults.slices(bytes, sizes.some(Boolean) ? sizes : [1]));
      const answer = await relay.ask({ model: "gpt-4o", stream: true });
      expect(Buffer.from(await answer.arrayBuffer()).equals(bytes), `seed ${trial}`).toBe(true);
      const { promptTokens, completionTokens, responseBody } = await relay.eventOf(answer);
      expect({ promptTokens, completionTokens, responseBody }, `seed ${trial}`).toEqual({
        promptTokens: 9,
        completionTokens: 12,
        responseBody: bytes.toString(),
      });
    }
  });

  test("a stream's frames arrive one by one, as they are sent", async () => {
    let send = (_: string | null) => {};
    relay.upstream.next((_, res) => {
      res.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
      send = (text) => (text === null ? res.end() : res.write(text));
    });
    const answer = await relay.ask({ stream: true });
    const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
    for (const text of ["data: 1\n\n", ": heartbeat\n\n", "data: 2\r\n\r\n"]) {
      send(text);
      expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe(text);
    }
    send(null);
    expect((await reader.read()).done).toBe(true);
  });
});

describe("paths that are not served", () => {
  const never = [
    ...[
      "/v1/organization",
      "/v1/organization/users",
      "/v1/organization/admin_api_keys",
      "/v1/organizations",
      "/v1/organization_costs",
    ],
    ...[
      "/v1/projects",
      "/v1/projects/p/api_keys",
      "/v1/realtime/client_secrets",
      "/v1/realtime/sessions",
      "/v1/dashboard/billing",
    ],
    ...["/v1/realtime/transcription_sessions", "/v1/chatkit/sessions", "/v1/api_keys"],
  ];
  const evasions = [
    ...[
      "/v1/Organization/users",
      "/v1/ORGANIZATION",
      "/v1/%6frganization/users",
      "/v1/%4Frganization",
      "/v1/%256frganization/users",
    ],
    ...[
      "/v1//organization/users",
      "/v1/organization//users",
      "/v1/%2Forganization/users",
      "/v1/organization%2Fusers",
      "/v1///organization",
    ],
    ...[
      "/v1/organization/",
      "/v1/organization/?x=1",
      "/v1/organization?x=1",
      "/v1/realtime//client_secrets/",
      "/v1/realtime%2fclient_secrets",
    ],
    ...["/v1/organization;x=1/users", "/v1/organization%3bx/users", "/v1/organization%20/users"],
  ];
  test.each([...never, ...evasions])("%s is 403 and never reaches the upstream", async (target) => {
    for (const [method, prefix] of [
      ["GET", ""],
      ["POST", "/proxy"],
    ] as const) {
      const answer = await raw(prefix + target, { method });
      expect(answer).toMatchObject({ status: 403, json: { error: { code: "path_denied" } } });
    }
    expect(relay.upstream.requests).toEqual([]);
  });

  test("what only looks like one of them is served", async () => {
    for (const target of ["/v1/chat/organization", "/v1/x?p=/v1/organization", "/v1/realtime/calls", "/v1/files/projects"])
      expect((await raw(target)).status).toBe(200);
  });

  test("PROXY_DENY adds more, however they are written", async () => {
    const denied = await startRelay({ PROXY_DENY: "/v1/files, /v1/Fine_Tuning/" });
    onTestFinished(() => denied.close());
    for (const path of [
      "/v1/files",
      "/v1/files/file-1/content",
      "/v1/FILES/x",
      "/v1//files",
      "/v1/%66iles",
      "/v1/fine_tuning/jobs",
      "/v1/fine_tuning",
    ])
      expect((await denied.get(path)).status).toBe(403);
    expect((await denied.get("/v1/organization")).status).toBe(403);
    for (const path of ["/v1/files_x", "/v1/x/files", "/v1/models"]) expect((await denied.get(path)).status).toBe(200);
    expect(denied.upstream.requests).toHaveLength(3);
  });

  test("PROXY_POLICY=strict serves stateless inference alone", async () => {
    const strict = await startRelay({ PROXY_POLICY: "strict" });
    onTestFinished(() => strict.close());
    const served: [string, string][] = [
      ...(["completions", "chat/completions", "embeddings", "responses", "moderations"].map((path) => [
        "POST",
        `/v1/${path}`,
      ]) as [string, string][]),
      ...(["images/generations", "images/edits", "audio/speech", "audio/transcriptions", "audio/translations"].map((path) => [
        "POST",
        `/v1/${path}`,
      ]) as [string, string][]),
      ...(["GET", "HEAD"].flatMap((method) => [
        [method, "/v1/models"],
        [method, "/v1/models/gpt-4o"],
      ]) as [string, string][]),
    ];
    for (const [method, path] of served) expect((await strict.get(path, { method })).status).toBe(200);
    const refused: [string, string][] = [
      ...([
        "files",
        "batches",
        "threads",
        "assistants",
        "vector_stores",
        "fine_tuning/jobs",
        "responses/resp_1",
        "chat/completions/c",
      ].map((path) => ["GET", `/v1/${path}`]) as [string, string][]),
      ...(["files", "responses/resp_1/cancel", "models", "uploads", "organization"].map((path) => ["POST", `/v1/${path}`]) as [
        string,
        string,
      ][]),
      ...([
        ["DELETE", "/v1/models/ft:x"],
        ["GET", "/v1/chat/completions"],
        ["GET", "/v1/models/a/b"],
        ["GET", "/v1/models/a%2Fb"],
        ["GET", "/v1/"],
      ] as [string, string][]),
    ];
    for (const [method, path] of refused) expect([(await strict.get(path, { method })).status, path]).toEqual([403, path]);
    expect(strict.upstream.requests).toHaveLength(served.length);
  });
});

describe("the upstream's address", () => {
  const through = async (suffix: string, targets: string[], env: Record<string, string> = {}) => {
    const other = await startRelay(({ url }) => ({ API_URL: url + suffix, ...env }));
    onTestFinished(() => other.close());
    for (const target of targets) await other.get(target);
    return other.upstream.requests;
  };

  test.each([
    ["", "/v1/models?a=1"],
    ["/", "/v1/models?a=1"],
    ["/v1", "/v1/models?a=1"],
    ["/v1/", "/v1/models?a=1"],
    ["/openrouter/api", "/openrouter/api/v1/models?a=1"],
    ["/openrouter/api/v1/", "/openrouter/api/v1/models?a=1"],
  ])("API_URL ending in %j is asked for %s", async (suffix, target) => {
    const [recorded] = await through(suffix, ["/v1/models?a=1"]);
    expect(recorded?.target).toBe(target);
    expect(recorded?.headers.authorization).toBe(`Bearer ${KEY}`);
  });

  test("an Azure deployment, or a whole operation of it, gets the key as api-key", async () => {
    for (const suffix of ["/openai/deployments/gpt", "/openai/deployments/gpt/", "/openai/deployments/gpt/chat/completions"]) {
      const recorded = await through(`${suffix}?api-version=2025-01-01`, [
        "/v1/chat/completions?a=1",
        "/v1/images/generations?n=",
        "/v1/audio/speech?api-version=mine",
        "/v1/models",
        "/v1/files/x/content?limit=2",
      ]);
      expect(recorded.map(({ target }) => target)).toEqual([
        "/openai/deployments/gpt/chat/completions?a=1&api-version=2025-01-01",
        "/openai/deployments/gpt/images/generations?n=&api-version=2025-01-01",
        "/openai/deployments/gpt/audio/speech?api-version=mine",
        "/openai/models?api-version=2025-01-01",
        "/openai/files/x/content?limit=2&api-version=2025-01-01",
      ]);
      for (const { headers } of recorded) {
        expect(headers["api-key"]).toBe(KEY);
        expect(headers).not.toHaveProperty("authorization");
      }
    }
  });

  test("a deployment without api-version is asked with a released one", async () => {
    const [recorded] = await through("/openai/deployments/gpt", ["/v1/embeddings"]);
    expect(recorded?.target).toMatch(/^\/openai\/deployments\/gpt\/embeddings\?api-version=\d{4}-\d\d-\d\d$/);
  });

  const targetOf = (url: string, target = "/v1/chat/completions") => azureRoute(new URL(url)).target(target);
  test.each(["res.openai.azure.com", "res.cognitiveservices.azure.com", "res.services.ai.azure.com"])(
    "%s is Azure, in every form",
    (host) => {
      const resource = "/openai/v1/chat/completions";
      expect(isAzure(new URL(`https://${host}`))).toBe(true);
      for (const form of [
        "",
        "/",
        "/openai",
        "/openai/",
        "/openai/v1",
        "/openai/v1/",
        "/openai/v1/chat/completions",
        "/openai/v1/responses",
      ])
        expect(targetOf(`https://${host}${form}`)).toBe(resource);
      expect(targetOf(`https://${host}/openai/v1/?api-version=preview`)).toBe(`${resource}?api-version=preview`);
      expect(targetOf(`https://${host}/openai/deployments/d/chat/completions?api-version=v`)).toBe(
        "/openai/deployments/d/chat/completions?api-version=v",
      );
      expect(targetOf(`https://${host}/openai/deployments/d?api-version=v`, "/v1/models?x=1")).toBe(
        "/openai/models?x=1&api-version=v",
      );
      expect(targetOf(`https://${host}/gateway/openai/deployments/d%20e?api-version=a%26b`)).toBe(
        "/gateway/openai/deployments/d%20e/chat/completions?api-version=a%26b",
      );
      expect(azureRoute(new URL(`https://${host}/openai/v1`)).origin).toBe(`https://${host}`);
      expect(azureRoute(new URL(`https://${host}`)).keyHeader("k")).toEqual(["api-key", "k"]);
    },
  );

  test.each([
    "https://api.openai.com",
    "https://openai.azure.com.evil.com",
    "https://notopenai.azure.com.x",
    "http://127.0.0.1/v1",
  ])("%s is not Azure", (url) => {
    expect(isAzure(new URL(url))).toBe(false);
  });

  test("a caller cannot name another deployment, or leave it", async () => {
    const recorded = await through("/openai/deployments/gpt?api-version=v", [
      "/v1/../../../deployments/other/x",
      "/v1/%2e%2e/other/chat/completions",
    ]);
    expect(recorded).toEqual([]);
  });
});

const MIB = 1024 * 1024;
const sha256 = (bytes: Buffer | string) => createHash("sha256").update(bytes).digest("hex");

/** A small seeded generator of numbers from 0 to 1 (mulberry32, public domain). */
function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** An upstream that holds nothing: it says the hash of what it took, and gives as many bytes as the query asks for. */
async function startBig() {
  let served = "";
  const server = createServer(async (req: IncomingMessage, res: ServerResponse) => {
    if (req.method === "POST") {
      const hash = createHash("sha256");
      await pipeline(req, hash);
      res.end(hash.digest("hex"));
      return;
    }
    const hash = createHash("sha256");
    res.writeHead(200, { "content-type": "application/octet-stream" });
    await pipeline(mebibytes(Number(new URL(req.url ?? "", "http://x").searchParams.get("mib")), hash), res);
    served = hash.digest("hex");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, served: () => served, close: () => server.close() };
}

async function transfer({ app, token }: Relay, mib: number) {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/octet-stream" };
  const sentHash = createHash("sha256");
  const up = httpRequest(`${app.url}/v1/files`, { method: "POST", headers });
  const [[answer]] = await Promise.all([
    once(up, "response") as Promise<[IncomingMessage]>,
    pipeline(mebibytes(mib, sentHash), up),
  ]);
  const stored = (await answer.toArray()).join("");
  const down = httpRequest(`${app.url}/v1/files/x/content?mib=${mib}`, { headers }).end();
  const [file] = (await once(down, "response")) as [IncomingMessage];
  const receivedHash = createHash("sha256");
  await pipeline(file, receivedHash);
  const served = createHash("sha256");
  for await (const _ of mebibytes(mib, served));
  return { sent: sentHash.digest("hex"), stored, received: receivedHash.digest("hex"), served: served.digest("hex") };
}

/** That many MiB, each different, in pieces that a socket likes. */
function mebibytes(count: number, hash: ReturnType<typeof createHash>): Readable {
  const piece = Buffer.from(seededBytes("big", 65_536));
  const pieces = function* () {
    for (let at = 0; at < count * 16; at++) {
      const bytes = Buffer.from(piece);
      bytes.writeUInt32BE(at);
      hash.update(bytes);
      yield bytes;
    }
  };
  return Readable.from(pieces(), { highWaterMark: 2 });
}

/** How far resident memory rose above where it was, at its highest. */
function watchMemory(): () => number {
  const before = process.memoryUsage.rss();
  let peak = before;
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, 5);
  return () => {
    clearInterval(timer);
    return peak - before;
  };
}
