import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { type EventRow, search } from "../../lib/repo/events.ts";
import { KEY, PASSWORD } from "../support/app.ts";
import { ask, request } from "../support/raw.ts";
import { idOf, type Relay, startRelay } from "../support/relay.ts";
import { faults } from "../support/upstream.ts";
import { chatUsage, sse } from "../support/upstream-answers.ts";

let relay: Relay;
beforeAll(async () => {
  relay = await startRelay();
});
afterEach(() => relay.reset());
afterAll(() => relay.close());

const chat = { model: "gpt-4o", messages: [{ role: "user", content: "hi" }] };
const post = (
  path: string,
  body: unknown,
  headers: Record<string, string> = { "content-type": "application/json" },
  through = relay,
) =>
  through.get(path, {
    method: "POST",
    headers,
    body:
      typeof body === "string" || body instanceof FormData || Buffer.isBuffer(body) ? (body as BodyInit) : JSON.stringify(body),
  });

/** The event of an answer that was read to its end. */
async function eventOf(answer: Response, through = relay): Promise<EventRow> {
  await answer.arrayBuffer();
  return through.eventOf(answer);
}

describe("the event of a relayed call", () => {
  test("is written before the upstream is called, whoever and whatever it is, and complete when the answer is there", async () => {
    const before: (EventRow | undefined)[] = [];
    relay.upstream.when(
      async () => {
        before.push((await search(relay.app.deps.store, { endpoint: "proxy.v1", limit: 1 }))[0]);
        return false;
      },
      () => {},
    );
    const answers = [
      await relay.get("/v1/models?limit=2&order=desc"),
      await relay.ask({ ...chat, stream: true }),
      await post("/v1/files", Buffer.alloc(600_000), {}),
      await relay.get("/proxy/v1/files/file-1", { method: "DELETE" }),
    ];
    const called = ["GET /v1/models", "POST /v1/chat/completions", "POST /v1/files", "DELETE /v1/files/file-1"];
    for (const [i, answer] of answers.entries()) {
      const id = answer.headers.get("x-proxy-gpt-request-id");
      const [method, path] = String(called[i]).split(" ") as [string, string];
      const known = {
        id,
        userId: relay.id,
        method,
        endpoint: "proxy.v1",
        query: i === 0 ? "limit=2&order=desc" : "",
        address: "127.0.0.1",
      };
      expect(before[i]).toMatchObject({ ...known, path: expect.stringMatching(`${path}$`), endedAt: null, status: null });
      const event = await eventOf(answer);
      expect(event).toMatchObject({ ...known, status: 200, errorCode: null, upstreamRequestId: relay.upstream.requests[i]?.id });
      expect(event.endedAt?.getTime()).toBeGreaterThanOrEqual(event.startedAt.getTime());
      expect(event.durationMs).toBeGreaterThanOrEqual(0);
    }
  });

  test("has ids of ours alone: a client cannot choose one", async () => {
    const answer = await relay.get("/v1/models", {
      headers: { "x-proxy-gpt-request-id": "00000000-0000-7000-8000-000000000000" },
    });
    expect(answer.headers.get("x-proxy-gpt-request-id")).not.toBe("00000000-0000-7000-8000-000000000000");
    expect(await eventOf(answer)).toMatchObject({ userId: relay.id });
  });

  test("is there for what is refused, too", async () => {
    const answer = await relay.get("/v1/organization/users");
    expect(answer.status).toBe(403);
    const event = (await search(relay.app.deps.store, { endpoint: "proxy.v1", limit: 1 }))[0];
    expect(event).toMatchObject({ userId: relay.id, status: 403, errorCode: "path_denied", path: "/v1/organization/users" });
  });

  test("of many at once is each one's own, and all are counted", async () => {
    const own = await startRelay();
    onTestFinished(() => own.close());
    const answers = await Promise.all(
      Array.from({ length: 150 }, (_, i) =>
        own.ask({ ...chat, model: `m${i}`, messages: [{ role: "user", content: `question ${i}` }] }),
      ),
    );
    for (const [i, answer] of answers.entries()) {
      const event = await eventOf(answer, own);
      expect(event).toMatchObject({ status: 200, model: `m${i}`, promptTokens: 9, completionTokens: 12 });
      expect(event.requestBody).toContain(`"question ${i}"`);
    }
    const { db, usage } = own.app.deps.store;
    expect(await db.select().from(usage)).toMatchObject([
      { userId: own.id, requests: 150, promptTokens: 150 * 9, completionTokens: 150 * 12 },
    ]);
  });
});

describe("usage and model", () => {
  const reported = { promptTokens: 9, completionTokens: 12, tokensEstimated: false, model: "gpt-4o" };
  test.each<[what: string, call: () => Promise<Response>, expected: object]>([
    ["a completion", () => relay.ask(chat), reported],
    ["a stream that reports it", () => relay.ask({ ...chat, stream: true, stream_options: { include_usage: true } }), reported],
    ["a response", () => post("/v1/responses", { model: "gpt-4o", input: "hi" }), reported],
    ["a streamed response", () => post("/v1/responses", { model: "gpt-4o", input: "hi", stream: true }), reported],
    [
      "embeddings",
      () => post("/v1/embeddings", { model: "e", input: "a" }),
      { promptTokens: 8, completionTokens: 0, tokensEstimated: false, model: "e" },
    ],
    [
      "an image",
      () => post("/v1/images/generations", { model: "i", prompt: "x" }),
      { promptTokens: 50, completionTokens: 50, model: "i" },
    ],
    [
      "a transcription",
      () => post("/v1/audio/transcriptions", form({ model: "whisper-1" }, "a.mp3"), {}),
      { promptTokens: 14, completionTokens: 12, model: "whisper-1" },
    ],
    [
      "speech, which has none",
      () => post("/v1/audio/speech", { model: "tts-1", input: "x" }),
      { promptTokens: null, tokensEstimated: null, model: "tts-1" },
    ],
    ["a list, which has none", () => relay.get("/v1/models"), { promptTokens: null, completionTokens: null, model: null }],
    [
      "a failure, which has none",
      () => relay.ask({ model: "error-400" }),
      { status: 400, promptTokens: null, model: "error-400", errorCode: null },
    ],
    ["a query", () => relay.get("/v1/x?model=gpt%2Fx&y"), { model: "gpt/x" }],
    ["a body that names none: the answer's", () => post("/v1/x", { a: 1 }), { model: null }],
  ])("of %s", async (_, call, expected) => {
    expect(await eventOf(await call())).toMatchObject(expected);
  });

  test("a model that only the answer names is the answer's", async () => {
    relay.upstream.next(faults.status(200, { model: "gpt-4o-2024-08-06", usage: chatUsage }));
    expect(await eventOf(await post("/v1/responses", { prompt: { id: "pmpt_1" } }))).toMatchObject({
      model: "gpt-4o-2024-08-06",
    });
  });

  test("a model is short, and of characters that every store takes", async () => {
    for (const model of ["m".repeat(5_000), "a\u0000b", "\ud800x", "ü".repeat(128)]) {
      const body = model === "\ud800x" ? Buffer.from('{"model":"\\ud800x"}') : Buffer.from(`{"model":"${model}"}`);
      const event = await eventOf(await post("/v1/x", body));
      expect(event.model ?? "").not.toContain("\u0000");
      expect(Buffer.byteLength(event.model ?? "")).toBeLessThanOrEqual(256);
      expect((event.model ?? "").isWellFormed()).toBe(true);
      if (model === "a\u0000b") expect(event.model).toBe("a\ufffdb");
    }
  });

  test("a stream without usage is estimated, marked so, and the same however it is cut", async () => {
    const events = Array.from({ length: 40 }, (_, i) => sse({ choices: [{ index: 0, delta: { content: `word data: ${i}` } }] }));
    const bytes = Buffer.from(`${events.join("")}data: [DONE]\n\n`);
    const estimates: unknown[] = [];
    for (const sizes of [[bytes.length], [1], [7, 3, 11]]) {
      relay.upstream.next(faults.slices(bytes, sizes));
      const { promptTokens, completionTokens, tokensEstimated } = await eventOf(await relay.ask({ ...chat, stream: true }));
      estimates.push({ promptTokens, completionTokens });
      expect(tokensEstimated).toBe(true);
      expect(promptTokens).toBe(Math.ceil(JSON.stringify({ ...chat, stream: true }).length / 4));
      expect(completionTokens).toBeGreaterThanOrEqual(36);
      expect(completionTokens).toBeLessThanOrEqual(44);
    }
    expect(new Set(estimates.map((it) => JSON.stringify(it))).size).toBe(1);
  });

  test("a long stream is estimated by its length, a cut one by what came", async () => {
    relay.upstream.next(faults.stream({ chunks: 3_000, gapMs: 0 }));
    const { completionTokens } = await eventOf(await relay.ask({ ...chat, stream: true }));
    expect(completionTokens).toBeGreaterThan(2_700);
    expect(completionTokens).toBeLessThan(3_300);

    relay.upstream.next(faults.resetMidStream(50));
    const cut = await relay.ask({ ...chat, stream: true });
    await cut.text().catch(() => {});
    expect(await relay.eventOf(cut)).toMatchObject({ status: 502, tokensEstimated: true });
    expect((await relay.eventOf(cut)).completionTokens).toBeGreaterThan(40);
  });

  test("only a key counts: what a text or a prompt quotes does not", async () => {
    const content = '"usage": {"prompt_tokens": 1000, "completion_tokens": 1000} and "model": "other"';
    relay.upstream.next(faults.status(200, { choices: [{ message: { content } }], usage: chatUsage }));
    const event = await eventOf(await relay.ask({ messages: [{ role: "user", content }], model: "gpt-4o" }));
    expect(event).toMatchObject(reported);
  });

  test.each([
    ["numbers that are none", { prompt_tokens: "9", completion_tokens: 12 }],
    ["half a number", { prompt_tokens: 1.5, completion_tokens: 1 }],
    ["more than can be counted", { prompt_tokens: 1e300, completion_tokens: 1 }],
    ["nothing", {}],
    ["an empty list", []],
    ["null", null],
  ])("a usage of %s is none, and harms nothing", async (_, usage) => {
    relay.upstream.next(faults.status(200, { usage }));
    const answer = await relay.ask(chat);
    expect(answer.status).toBe(200);
    expect(await eventOf(answer)).toMatchObject({ status: 200, promptTokens: null });
  });

  test("compressed or not, a broken body harms neither the answer nor the event", async () => {
    const whole = gzipSync(JSON.stringify({ usage: chatUsage, filler: "x".repeat(100_000) }));
    for (const body of [
      whole.subarray(0, whole.length - 20),
      Buffer.concat([whole, Buffer.from("garbage")]),
      gzipSync(Buffer.alloc(40 * 1024 * 1024)),
    ]) {
      relay.upstream.next(faults.status(200, body, { "content-encoding": "gzip", "content-type": "application/json" }));
      const answer = await ask(
        relay.app.url,
        request(["GET /v1/x HTTP/1.1", "Host: h", `Authorization: Bearer ${relay.token}`, "Connection: close"]),
      );
      expect(answer.headers["content-length"]).toBe(String(body.length));
      expect(await relay.eventOf(answer.headers["x-proxy-gpt-request-id"] ?? "")).toMatchObject({ status: 200 });
    }
  });
});

describe("bodies", () => {
  test("are kept as they were, errors included", async () => {
    const answer = await relay.ask({ ...chat, user: "grüße 🎉" });
    const text = await answer.text();
    expect(await relay.eventOf(answer)).toMatchObject({
      requestBody: JSON.stringify({ ...chat, user: "grüße 🎉" }),
      responseBody: text,
    });
    const failed = await relay.ask({ model: "error-429" });
    const failure = await failed.text();
    expect(await relay.eventOf(failed)).toMatchObject({ status: 429, responseBody: failure });
  });

  test.each([0, 1, 5, 4_095, 4_096, 16_384])("are cut to LOG_BODY_BYTES=%i, never inside a character", async (limit) => {
    const own = await startRelay({ LOG_BODY_BYTES: String(limit) });
    onTestFinished(() => own.close());
    for (const [lead, character] of [
      ["", "🎉"],
      ["a", "🎉"],
      ["aa", "🎉"],
      ["aaa", "🎉"],
      ["", "語"],
      ["a", "語"],
      ["", "ü"],
      ["a", "ü"],
    ] as const) {
      const body = Buffer.from(lead + character.repeat(12_000));
      own.upstream.next(faults.status(200, body, { "content-type": "text/plain; charset=utf-8" }));
      const event = await eventOf(await post("/v1/x", body, { "content-type": "text/plain" }, own), own);
      for (const kept of [event.requestBody, event.responseBody]) {
        if (limit === 0) {
          expect(kept).toBe(null);
          continue;
        }
        expect(body.toString().startsWith(kept ?? "?"), `${lead}${character} at ${limit}: …${kept?.slice(-3)}`).toBe(true);
        expect(Buffer.byteLength(kept ?? "")).toBeLessThanOrEqual(limit);
        expect(Buffer.byteLength(kept ?? "")).toBeGreaterThan(limit - 4);
      }
    }
  });

  test("of a stream in small pieces are kept as one text", async () => {
    const bytes = Buffer.from(sse({ delta: "日本語 🎉" }).repeat(30));
    relay.upstream.next(faults.oneByteChunks(bytes));
    expect((await eventOf(await relay.ask({ stream: true }))).responseBody).toBe(bytes.toString());
  });

  test("LOG_BODIES=off keeps none, but model, usage and status", async () => {
    const quiet = await startRelay({ LOG_BODIES: "off" });
    onTestFinished(() => quiet.close());
    for (const stream of [false, true]) {
      const event = await eventOf(await quiet.ask({ ...chat, stream, stream_options: { include_usage: true } }), quiet);
      expect(event).toMatchObject({
        requestBody: null,
        responseBody: null,
        model: "gpt-4o",
        promptTokens: 9,
        completionTokens: 12,
        status: 200,
      });
    }
    const stored = readFileSync(quiet.app.file, "latin1") + readFileSync(`${quiet.app.file}-wal`, "latin1");
    expect(stored).not.toContain('"messages":');
  });

  test("that are not text are described, not stored", async () => {
    const binary = Buffer.from([0, 1, 2, 0xff]);
    const stored = async (type: string | undefined, body: Buffer | FormData, headers: Record<string, string> = {}) =>
      (await eventOf(await post("/v1/x", body, { ...(type !== undefined && { "content-type": type }), ...headers }))).requestBody;
    expect(await stored("application/octet-stream", binary)).toBe("[application/octet-stream, 4 bytes]");
    expect(await stored("audio/mpeg; codec=x", Buffer.alloc(600_000))).toBe("[audio/mpeg, 600000 bytes]");
    expect(await stored(undefined, form({ model: "m" }, "a.bin"))).toMatch(/^\[multipart\/form-data, \d+ bytes\]$/);
    expect(await stored("application/json", gzipSync("{}"), { "content-encoding": "gzip" })).toMatch(
      /^\[application\/json, \d+ bytes\]$/,
    );
    const speech = await eventOf(await post("/v1/audio/speech", { model: "tts-1", input: "x" }));
    expect(speech.responseBody).toBe("[audio/mpeg, 200000 bytes]");
    relay.upstream.next((_, res) => void res.writeHead(200, { "content-length": 3 }).end("abc"));
    expect((await eventOf(await relay.get("/v1/x"))).responseBody).toBe("[no content type, 3 bytes]");
  });

  test("that no store would take as text are kept as near as can be", async () => {
    const body = Buffer.concat([Buffer.from('{"a":"\u0000'), Buffer.from([0xff, 0xc3]), Buffer.from('\\ud800 \ufeff"}')]);
    relay.upstream.next(faults.status(200, body, { "content-type": "application/json" }));
    const event = await eventOf(await post("/v1/x", body));
    for (const kept of [event.requestBody, event.responseBody]) {
      expect(kept).toContain('{"a":"\ufffd');
      expect(kept).not.toContain("\u0000");
      expect(kept?.isWellFormed()).toBe(true);
    }
  });
});

describe("nothing that was planted shows", () => {
  test("no part of the key, no token, no password: in no answer, log line or byte of the database", async () => {
    const own = await startRelay();
    onTestFinished(() => own.close());
    const { app, upstream, token, username } = own;
    const seen: string[] = [];
    const see = async (answer: Response) => {
      seen.push(JSON.stringify([...answer.headers]), await answer.text().catch((error) => String(error)));
      return answer;
    };
    const quoting = (status: number) =>
      faults.status(status, { error: { message: `Incorrect API key provided: ${KEY}` } }, { "x-key": KEY });
    const basic = `Basic ${Buffer.from(`${username}:${token}`).toString("base64")}`;
    const credentials: Record<string, string>[] = [
      { authorization: `Bearer ${token}` },
      { authorization: basic },
      { cookie: `sess=${token}` },
    ];

    for (const headers of credentials) {
      for (const stream of [false, true]) {
        const body = JSON.stringify({ ...chat, stream });
        const init = {
          method: "POST",
          headers: { ...headers, "content-type": "application/json", "x-api-key": token, "api-key": token },
          body,
        };
        await see(await fetch(`${app.url}/v1/chat/completions`, init));
        upstream.next(quoting(401));
        expect((await see(await fetch(`${app.url}/v1/chat/completions`, init))).status).toBe(502);
      }
      upstream.next(faults.resetBeforeHeaders());
      await see(await fetch(`${app.url}/v1/models?token=${token}&access_token=${token}&api_key=${KEY}`, { headers }));
      upstream.next(faults.resetMidStream());
      await see(await fetch(`${app.url}/v1/models`, { headers }));
      await see(await fetch(`${app.url}/v1/organization/users?token=${token}`, { headers }));
      await see(await fetch(`${app.url}/v1/%zz?${token}`, { headers }));
      await see(await fetch(`${app.url}/user/read`, { headers }));
    }
    await see(await own.get("/v1/models", { headers: { authorization: `Bearer ${token}x` } }));
    for (const password of [PASSWORD, `${PASSWORD}!`]) {
      const init = {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ username, password }),
      };
      const answer = await fetch(`${app.url}/user/login`, init);
      const text = await answer.text();
      // A sign-in hands its own token out, to whom it belongs.
      seen.push(text.replaceAll(/"token":"pgs_[^"]+"/g, ""));
    }
    upstream.next(quoting(401));
    const socket = new WebSocket(`${app.url.replace("http", "ws")}/v1/realtime?model=m&token=${token}`, [
      `openai-insecure-api-key.${token}`,
    ]);
    const refusal = await new Promise<string>((resolve) => {
      socket
        .on("error", () => {})
        .on("unexpected-response", async (_, answer) =>
          resolve(JSON.stringify(answer.rawHeaders) + (await answer.toArray()).join("")),
        );
    });
    expect(refusal).toContain("upstream_key_rejected");
    seen.push(refusal);
    // Were the upstream not to be reached, the reason would be logged.
    const { dispatch } = app.deps.upstream;
    Object.assign(app.deps.upstream, {
      dispatch: () => {
        throw new Error("invalid header", { cause: new Error("something below") });
      },
    });
    await see(await own.ask(chat));
    Object.assign(app.deps.upstream, { dispatch });

    const places = {
      answers: seen.join("\n"),
      log: own.lines.map((line) => JSON.stringify(line)).join("\n"),
      database: readFileSync(app.file, "latin1") + readFileSync(`${app.file}-wal`, "latin1"),
    };
    expect(places.log).toContain("upstream_key_rejected");
    expect(places.database).toContain("upstream_key_rejected");
    const planted = [
      token,
      token.slice(4),
      basic.slice(6),
      PASSWORD,
      ...Array.from({ length: KEY.length - 7 }, (_, i) => KEY.slice(i, i + 8)),
    ];
    for (const [place, text] of Object.entries(places)) {
      for (const secret of planted) expect(text.includes(secret), `${secret} in the ${place}`).toBe(false);
    }
  });
});

describe("a store that is down", () => {
  /** What a full or read-only disk does to SQLite, and its return. */
  const disk = ({ store }: Relay["app"]["deps"], full: boolean) =>
    store.run([{ sql: `pragma query_only = ${full ? "on" : "off"}`, params: [] }]);

  test("means 503 with Retry-After, never 401, and no call to the upstream; it is back at once", async () => {
    const own = await startRelay();
    onTestFinished(() => own.close());
    await disk(own.app.deps, true);
    for (const init of [{}, { method: "POST", body: JSON.stringify(chat) }, { method: "POST", body: Buffer.alloc(600_000) }]) {
      const answer = await own.get("/v1/x", init);
      expect([answer.status, (await answer.json()).error.code]).toEqual([503, "store_unavailable"]);
      expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    }
    const upgrade = [
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
      "Sec-WebSocket-Version: 13",
    ];
    const answer = await ask(
      own.app.url,
      request(["GET /v1/realtime?model=m HTTP/1.1", "Host: h", `Authorization: Bearer ${own.token}`, ...upgrade]),
    );
    expect(answer).toMatchObject({ status: 503, json: { error: { code: "store_unavailable" } } });
    expect(Number(answer.headers["retry-after"])).toBeGreaterThan(0);
    expect(own.upstream.requests).toEqual([]);
    expect(own.lines.filter(({ severity }) => severity === "ERROR").length).toBeGreaterThanOrEqual(3);

    await disk(own.app.deps, false);
    expect((await own.ask(chat)).status).toBe(200);
    expect(own.upstream.requests).toHaveLength(1);
  });

  test("in the middle of a stream: the stream goes on and ends, and its event is completed when the store is back", async () => {
    const own = await startRelay();
    onTestFinished(() => own.close());
    let end = () => {};
    own.upstream.next((_, res) => {
      res.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
      end = () => res.end("data: 2\n\n");
    });
    const answer = await own.ask({ ...chat, stream: true });
    await disk(own.app.deps, true);
    end();
    expect(await answer.text()).toBe("data: 1\n\ndata: 2\n\n");
    const id = idOf(await own.logged(({ message }) => message === "POST proxy.v1 200"));
    await disk(own.app.deps, false);
    await own.app.deps.ledger.settled(5_000);
    expect(await own.eventOf(id)).toMatchObject({ status: 200, responseBody: "data: 1\n\ndata: 2\n\n" });
  });
});

function form(fields: Record<string, string>, fileName: string): FormData {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append("file", new Blob([Buffer.alloc(5_000, 7)]), fileName);
  return body;
}
