import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import { inspect } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { type CompletionEnd, type CompletionRequest, complete } from "../../lib/llm/completion.ts";
import { CompletionError } from "../../lib/llm/retry.ts";
import { createUpstream, type Upstream as Model, type UpstreamOptions } from "../../lib/llm/upstream.ts";
import { openSockets, settled, until } from "../support/relay.ts";
import { faults, type Handler, type Recorded, startUpstream, type Upstream } from "../support/upstream.ts";
import { replyPieces, replyText, sse } from "../support/upstream-answers.ts";
import { startWire } from "../support/wire.ts";

const KEY = "sk-proj-completion-0123456789abcdef";
const DONE = "data: [DONE]\n\n";

let upstream: Upstream;
let model: Model;
beforeAll(async () => {
  upstream = await startUpstream();
  model = modelAt(upstream.url);
});
afterEach(() => upstream.reset());
afterAll(async () => {
  await model.close();
  await upstream.close();
});

const modelAt = (url: string, more: Partial<UpstreamOptions> = {}) =>
  createUpstream({ key: KEY, url, timeoutMs: 20_000, ...more });

/** Closed when the test is over. */
function ownModel(url: string, more: Partial<UpstreamOptions> = {}): Model {
  const own = modelAt(url, more);
  onTestFinished(() => own.close());
  return own;
}

/** The least of jitter there is: what is waited for between two tries is then nothing. */
const withoutWaiting = () => -1;

const ask = (more: Partial<CompletionRequest> = {}, of: Model = model) =>
  complete(of, {
    model: "gpt-4o",
    messages: [{ role: "user", content: "hi" }],
    signal: new AbortController().signal,
    random: withoutWaiting,
    ...more,
  });

/** The id that the upstream gave to the last request. */
const lastId = () => upstream.requests.at(-1)?.id;

/** Everything that comes of a completion: its pieces, and its end or what it threw. */
async function outcome(completion: AsyncGenerator<string, CompletionEnd>) {
  const pieces: string[] = [];
  try {
    for (;;) {
      const { value, done } = await completion.next();
      if (done) return { pieces, text: pieces.join(""), end: value, error: null };
      pieces.push(value);
    }
  } catch (error) {
    return { pieces, text: pieces.join(""), end: null, error: error as CompletionError };
  }
}

const chunk = (delta: unknown, more: object = {}) =>
  sse({ id: "c", model: "gpt-4o-2024", choices: [{ index: 0, delta, finish_reason: null }], ...more });
const finish = sse({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
const answer = (bytes: string | Buffer) => faults.slices(bytes, [65_536]);

describe("a completion", () => {
  test("comes in the upstream's pieces, and ends with what the upstream said of it", async () => {
    const { pieces, end } = await outcome(ask());
    expect(pieces).toEqual(replyPieces);
    expect(end).toEqual({
      model: "gpt-4o",
      finishReason: "stop",
      usage: { promptTokens: 9, completionTokens: 12, estimated: false },
      upstreamRequestId: lastId(),
    });
  });

  test("asks for what it was told to, always as a stream with its usage", async () => {
    const messages = [
      { role: "system" as const, content: "Be brief." },
      { role: "user" as const, name: "asim", content: [{ type: "image_url", image_url: { url: "https://example.com/a.png" } }] },
      { role: "assistant" as const, content: "Straße 🎉" },
    ];
    const options = { temperature: 0.2, max_tokens: 5, stop: ["\n"], stream: false, model: "other", messages: [] };
    await outcome(ask({ messages, options }));
    expect(JSON.parse(String(upstream.requests[0]?.body))).toEqual({
      model: "gpt-4o",
      messages,
      temperature: 0.2,
      max_tokens: 5,
      stop: ["\n"],
      stream: true,
      stream_options: { include_usage: true },
    });
  });

  test("sends these headers and no others, whatever the environment wants of the library, which has no key and logs nothing", async () => {
    vi.stubEnv("OPENAI_API_KEY", "sk-environment");
    vi.stubEnv("OPENAI_ADMIN_KEY", "sk-environment");
    vi.stubEnv("OPENAI_ORG_ID", "org-environment");
    vi.stubEnv("OPENAI_PROJECT_ID", "proj-environment");
    vi.stubEnv("OPENAI_BASE_URL", "http://127.0.0.1:1");
    vi.stubEnv("OPENAI_CUSTOM_HEADERS", "x-environment: yes");
    vi.stubEnv("OPENAI_LOG", "debug");
    vi.stubGlobal("fetch", () => Promise.reject(new Error("the global fetch was used")));
    const said = (["log", "info", "warn", "error", "debug"] as const).map((name) =>
      vi.spyOn(console, name).mockImplementation(() => {}),
    );
    onTestFinished(() => {
      vi.unstubAllEnvs();
      vi.unstubAllGlobals();
      vi.restoreAllMocks();
    });
    await outcome(ask({ headers: { "x-client-request-id": "ours" } }));
    upstream.next(answer("data: {secret\n\n"));
    await outcome(ask());
    const [first] = upstream.requests;
    expect(first?.rawHeaders.map((it, i) => (i % 2 === 0 ? it.toLowerCase() : it))).toEqual([
      ...["host", new URL(upstream.url).host, "connection", "keep-alive", "content-type", "application/json"],
      ...["accept", "text/event-stream", "user-agent", "proxy-gpt", "x-client-request-id", "ours"],
      ...["authorization", `Bearer ${KEY}`, "content-length", String(first?.body.length)],
    ]);
    for (const spy of said) expect(spy).not.toHaveBeenCalled();
  });

  test.each([
    ["", "/v1/chat/completions", "authorization", `Bearer ${KEY}`],
    ["/v1", "/v1/chat/completions", "authorization", `Bearer ${KEY}`],
    ["/some/base/v1/", "/some/base/v1/chat/completions", "authorization", `Bearer ${KEY}`],
    ["/openai/deployments/gpt", "/openai/deployments/gpt/chat/completions?api-version=2024-10-21", "api-key", KEY],
    [
      "/openai/deployments/gpt/chat/completions?api-version=2025-01-01",
      "/openai/deployments/gpt/chat/completions?api-version=2025-01-01",
      "api-key",
      KEY,
    ],
  ])("at the address %s goes to %s with the key once, as %s", async (path, target, name, value) => {
    upstream.next(answer(chunk({ content: "yes" }) + finish + DONE));
    expect((await outcome(ask({}, ownModel(upstream.url + path)))).text).toBe("yes");
    const [request] = upstream.requests;
    expect(request?.target).toBe(target);
    const keys = request?.rawHeaders.filter((it) => it.includes(KEY));
    expect([keys, request?.headers[name]]).toEqual([[value], value]);
    expect(request?.headers[name === "api-key" ? "authorization" : "api-key"]).toBeUndefined();
  });

  test("without a key sends none", async () => {
    await outcome(ask({}, ownModel(upstream.url, { key: undefined })));
    expect(upstream.requests[0]?.headers).not.toHaveProperty("authorization");
  });

  test("takes a refusal for text, and nothing for it that is empty or not the first choice", async () => {
    const other = { choices: [{ index: 1, delta: { content: "other" } }] };
    const filtered = { model: "", choices: [], prompt_filter_results: [] };
    const bytes =
      sse(filtered) +
      chunk({ role: "assistant", content: "", refusal: null }) +
      chunk({ content: null, tool_calls: [] }) +
      sse(other) +
      chunk({ refusal: "I can't" }) +
      chunk({ content: " do that" }) +
      sse({ choices: [{ index: 0, finish_reason: "content_filter" }] });
    upstream.next(answer(bytes + DONE));
    const { pieces, end } = await outcome(ask());
    expect(pieces).toEqual(["I can't", " do that"]);
    expect(end).toMatchObject({ model: "gpt-4o-2024", finishReason: "content_filter", usage: null });
  });

  test("yields text that every store keeps: pairs are joined, and half ones and NUL replaced", async () => {
    const [high, low] = ["\ud83c", "\udf89"];
    const deltas = ["a", high, low, `b${low}c`, `${high}d`, "\0", high].map((content) => chunk({ content }));
    upstream.next(answer(deltas.join("") + finish + DONE));
    const { pieces } = await outcome(ask());
    expect(pieces).toEqual(["a", "🎉", "b\uFFFDc", "\uFFFDd", "\uFFFD", "\uFFFD"]);
  });

  test.each<[what: string, usage: unknown]>([
    ["none", undefined],
    ["no numbers", { prompt_tokens: "9", completion_tokens: 1 }],
    ["less than nothing", { prompt_tokens: -1, completion_tokens: 1 }],
    ["something else", "many"],
  ])("has no usage where the upstream reports %s", async (_, usage) => {
    upstream.next(answer(chunk({ content: "x" }) + sse({ choices: [], usage }) + finish + DONE));
    expect((await outcome(ask())).end?.usage).toBeNull();
  });

  test("has the last usage, where it is reported with every chunk or with nothing else", async () => {
    const usage = (n: number) => ({ usage: { prompt_tokens: 3, completion_tokens: n } });
    upstream.next(answer(chunk({ content: "x" }, usage(1)) + finish + sse(usage(2)) + DONE));
    expect((await outcome(ask())).end?.usage).toEqual({ promptTokens: 3, completionTokens: 2, estimated: false });
  });

  test.each([400, 422])(
    "an upstream that refuses stream_options with %i is asked without, and from then on at once",
    async (status) => {
      const own = ownModel(upstream.url);
      const error = { code: null, type: "invalid_request_error", message: "Unknown field: 'stream_options'" };
      upstream.next(faults.status(status, { error }));
      expect((await outcome(ask({ options: { stream_options: { include_usage: true } } }, own))).text).toBe(replyText);
      expect((await outcome(ask({ options: { stream_options: {} } }, own))).end?.usage).toBeNull();
      const options = upstream.requests.map(({ body }) => JSON.parse(String(body)).stream_options);
      expect(options).toEqual([{ include_usage: true }, undefined, undefined]);
    },
  );

  test("an upstream that refuses stream_options and then is busy is asked twice more", async () => {
    const own = ownModel(upstream.url);
    upstream.next(faults.status(400, "stream_options?"));
    upstream.when(() => true, faults.status(429));
    expect((await outcome(ask({}, own))).error?.code).toBe("upstream_busy");
    expect(upstream.requests).toHaveLength(4);
  });

  test("an upstream that refuses stream_options and then breaks off has broken off", async () => {
    upstream.next(faults.status(400, "stream_options?"));
    upstream.next(faults.resetMidStream(2, "fin"));
    const { text, error } = await outcome(ask({}, ownModel(upstream.url)));
    expect([text, error?.code]).toEqual(["word-0 word-1 ", "upstream_reset"]);
  });

  test("leaves its connection to the next one, and so does a refusal", async () => {
    const own = ownModel(upstream.url);
    const ports = new Set<number | undefined>();
    const on =
      (handler: Handler): Handler =>
      (req, res, recorded) => {
        ports.add(req.socket.remotePort);
        return handler(req, res, recorded);
      };
    for (const handler of [
      faults.stream({ chunks: 3, gapMs: 0 }),
      faults.status(400, { error: {} }),
      faults.stream({ chunks: 3 }),
    ]) {
      upstream.next(on(handler));
      await outcome(ask({}, own));
      // undici lets a connection rest for a turn of the event loop.
      for (let turns = 0; turns < 3; turns++) await turn();
    }
    expect([upstream.requests.length, ports.size]).toEqual([3, 1]);
  });

  test.each<[what: string, handler: Handler]>([
    ["says [DONE] and then nothing", faults.stallAfter(chunk({ content: "x" }) + DONE)],
    ["says [DONE] and then goes on", answer(`${chunk({ content: "x" })}${DONE}data: {nonsense\n\n`.repeat(3))],
    ["says [DONE] and is cut", faults.resetMidStream(chunk({ content: "x" }) + DONE, "fin")],
    ["says [DONE] without an end of the line", answer(`${chunk({ content: "x" })}data: [DONE]`)],
    ["gives its reason and is cut", faults.resetMidStream(chunk({ content: "x" }) + finish, "fin")],
    ["gives its reason and ends", answer(chunk({ content: "x" }) + finish)],
  ])("is whole when the upstream %s", async (_, handler) => {
    upstream.next(handler);
    const { text, error } = await outcome(ask());
    expect([text, error]).toEqual(["x", null]);
  });
});

describe("a completion that fails", () => {
  const refusal = (status: number, error: unknown) => faults.status(status, { error });
  test.each<[what: string, handler: Handler, code: string, upstreamCode: string | null, requests: number]>([
    ["a rejected key", refusal(401, { code: "invalid_api_key", message: KEY }), "upstream_key_rejected", null, 1],
    ["a refusal", refusal(400, { code: "context_length_exceeded", type: "x" }), "upstream_refused", "context_length_exceeded", 1],
    ["a refusal with a type alone", refusal(404, { code: null, type: "not_found" }), "upstream_refused", "not_found", 1],
    ["a refusal with a number", refusal(403, { code: 403, type: "a b", message: "x" }), "upstream_refused", null, 1],
    ["a refusal in a sentence", refusal(400, { code: `your key ${KEY}`, type: "bad" }), "upstream_refused", "bad", 1],
    ["a refusal that is one word", refusal(400, "no"), "upstream_refused", null, 1],
    ["a refusal without an envelope", faults.status(400, { code: "BadRequest" }), "upstream_refused", "BadRequest", 1],
    ["a refusal as a page", faults.status(403, "<html>no</html>"), "upstream_refused", null, 1],
    ["a refusal that does not end", (_, res) => void res.writeHead(400).write('{"error":'), "upstream_refused", null, 1],
    ["a timeout of the upstream's", faults.status(408), "upstream_refused", null, 3],
    ["a conflict", faults.status(409), "upstream_refused", null, 3],
    ["too many requests", refusal(429, { code: "rate_limit_exceeded" }), "upstream_busy", "rate_limit_exceeded", 3],
    ["a used up quota", refusal(429, { code: "insufficient_quota" }), "upstream_busy", "insufficient_quota", 1],
    ["a failure", refusal(500, { code: "server_error" }), "upstream_failed", "server_error", 3],
    ["a failure for good", faults.status(503, "", { "x-should-retry": "false" }), "upstream_failed", null, 1],
    ["a redirect", faults.redirect("https://example.com/v1"), "upstream_garbled", null, 1],
    ["a page", faults.status(200, "<html>\n<body>hi</body>\n</html>"), "upstream_garbled", null, 1],
    ["a word", faults.status(200, "ok"), "upstream_garbled", null, 1],
    ["a document", faults.status(200, { error: { message: "no" } }), "upstream_garbled", null, 1],
    ["a compressed document", faults.gzip({ choices: [] }), "upstream_garbled", null, 1],
    ["nothing", faults.status(200, ""), "upstream_reset", null, 1],
    ["malformed events", faults.malformedSse(), "upstream_garbled", null, 1],
  ])("%s", async (_, handler, code, upstreamCode, requests) => {
    upstream.when(() => true, handler);
    const { text, error } = await outcome(ask());
    expect(error).toBeInstanceOf(CompletionError);
    expect({ text, code: error?.code, upstreamCode: error?.upstreamCode }).toEqual({ text: "", code, upstreamCode });
    expect(upstream.requests).toHaveLength(requests);
    expect(error?.upstreamRequestId).toBe(lastId());
    expect(told(error)).not.toContain(KEY.slice(3, 11));
  });

  test.each<[what: string, handler: Handler, code: string, requests: number]>([
    ["a reset", faults.resetBeforeHeaders(), "upstream_reset", 3],
    ["an end", ({ socket }) => void socket.end(), "upstream_reset", 3],
    ["half of the headers", ({ socket }) => void socket.end("HTTP/1.1 200 OK\r\ncontent-ty"), "upstream_reset", 3],
    ["another protocol", ({ socket }) => void socket.end(`SSH-2.0 ${KEY}\r\n`), "upstream_garbled", 1],
    [
      "endless headers",
      ({ socket }) => void socket.end(`HTTP/1.1 200 OK\r\nx: ${KEY.repeat(3_000)}\r\n\r\n`),
      "upstream_garbled",
      1,
    ],
  ])("%s instead of an answer", async (_, handler, code, requests) => {
    upstream.when(() => true, handler);
    const { error } = await outcome(ask());
    expect(error).toBeInstanceOf(CompletionError);
    expect(error).toMatchObject({ code, upstreamCode: null, upstreamRequestId: null });
    expect(upstream.requests).toHaveLength(requests);
    expect(told(error)).not.toContain(KEY.slice(3, 11));
  });

  test.each<[what: string, handler: Handler, code: string, upstreamCode: string | null, text: string]>([
    ["a reset", faults.resetMidStream(3, "rst"), "upstream_reset", null, "word-0 word-1 word-2 "],
    ["a close", faults.resetMidStream(3, "fin"), "upstream_reset", null, "word-0 word-1 word-2 "],
    ["a close before any event", faults.resetMidStream(0, "fin"), "upstream_reset", null, ""],
    ["an end without a last word", faults.endWithoutTerminal(3), "upstream_reset", null, "word-0 word-1 word-2 "],
    ["an end within an event", answer(`${chunk({ content: "a" })}data: {"choices":`), "upstream_reset", null, "a"],
    [
      "an error event",
      answer(chunk({ content: "a" }) + sse({ error: { code: "overloaded", message: KEY } })),
      "upstream_failed",
      "overloaded",
      "a",
    ],
    [
      "an error event by name",
      answer(chunk({ content: "a" }) + sse({ type: "overloaded", message: KEY }, "error")),
      "upstream_failed",
      "overloaded",
      "a",
    ],
    [
      "a named error with an envelope",
      answer(sse({ error: { type: "overloaded" } }, "error")),
      "upstream_failed",
      "overloaded",
      "",
    ],
    ["a named error in words", answer(`event: error\ndata: it broke\n\n`), "upstream_failed", null, ""],
    ["an error that is one word", answer(sse({ error: KEY })), "upstream_failed", null, ""],
    ["half of JSON", answer(`${chunk({ content: "a" })}data: {"choices"\n\n`), "upstream_garbled", null, "a"],
    ["a number", answer(`${chunk({ content: "a" })}data: 42\n\n`), "upstream_garbled", null, "a"],
    ["null", answer("data: null\n\n"), "upstream_garbled", null, ""],
    ["choices that are none", answer(sse({ choices: {}, usage: "many" })), "upstream_garbled", null, ""],
    ["a choice that is none", answer(sse({ choices: [null] })), "upstream_garbled", null, ""],
    ["no choices and no usage", answer(sse({ object: "error", message: "no" }) + DONE), "upstream_garbled", null, ""],
    ["an endless event", answer(`data: ${"x".repeat(5_000_000)}`), "upstream_garbled", null, ""],
    ["events of a thread", answer(`event: thread.run\ndata: {secret\n\n`), "upstream_garbled", null, ""],
  ])("after it began: %s, and what came before is kept", async (_, handler, code, upstreamCode, expected) => {
    const said = vi.spyOn(console, "error");
    onTestFinished(() => said.mockRestore());
    upstream.next(handler);
    const { text, error } = await outcome(ask());
    expect(error).toBeInstanceOf(CompletionError);
    expect({ code: error?.code, upstreamCode: error?.upstreamCode, text }).toEqual({ code, upstreamCode, text: expected });
    expect(error?.upstreamRequestId).toBe(lastId());
    expect(upstream.requests).toHaveLength(1);
    expect(told(error)).not.toContain(KEY.slice(3, 11));
    expect(said).not.toHaveBeenCalled();
    await upstream.requests[0]?.closed;
  });

  test("a rejected key whose answer does not end: at once, and the call is given up", async () => {
    upstream.next((_, res) => void res.writeHead(401).write("{"));
    expect((await outcome(ask())).error?.code).toBe("upstream_key_rejected");
    expect((await upstream.requests[0]?.closed)?.aborted).toBe(true);
  });

  test("an endless refusal: little of it is read, and the call is given up", async () => {
    let produced = 0;
    upstream.next((_, res) => {
      res.writeHead(400);
      const more = () => {
        do produced += 65_536;
        while (res.write("x".repeat(65_536)));
        res.once("drain", more);
      };
      more();
    });
    expect((await outcome(ask())).error).toMatchObject({ code: "upstream_refused", upstreamCode: null });
    expect((await upstream.requests[0]?.closed)?.aborted).toBe(true);
    expect(produced).toBeLessThan(16 * 1024 * 1024);
  });

  test("a cut: a consumer that was slow still has all that came before it", async () => {
    upstream.next(async (req, res, recorded) => {
      await recorded.complete;
      res.writeHead(200, { "content-type": "text/event-stream" });
      for (let word = 0; word < 50; word++) {
        res.write(chunk({ content: `word-${word} ` }));
        await turn();
      }
      await new Promise((written) => res.write(": the last\n\n", written));
      req.socket.end();
    });
    const completion = ask();
    expect((await completion.next()).value).toBe("word-0 ");
    await upstream.requests[0]?.closed;
    for (let turns = 0; turns < 20; turns++) await turn();
    const { text, error } = await outcome(completion);
    expect(text).toMatch(/^word-1 .* word-49 $/);
    expect(error?.code).toBe("upstream_reset");
  });

  test("an upstream that hangs: after its time, once, and the call is given up", async () => {
    upstream.when(() => true, faults.hang());
    const { error } = await outcome(ask({}, ownModel(upstream.url, { timeoutMs: 200 })));
    expect(error?.code).toBe("upstream_timeout");
    expect(upstream.requests).toHaveLength(1);
    expect((await upstream.requests[0]?.closed)?.aborted).toBe(true);
  });

  test.each([0, 2])(
    "a stream that stands still after %i words: after its time, once, and the call is given up",
    async (words) => {
      upstream.when(() => true, faults.stallAfter(words));
      const { text, error } = await outcome(ask({}, ownModel(upstream.url, { stallMs: 200 })));
      expect([error?.code, text]).toEqual(["upstream_stalled", words === 0 ? "" : "word-0 word-1 "]);
      expect(upstream.requests).toHaveLength(1);
      expect((await upstream.requests[0]?.closed)?.aborted).toBe(true);
    },
  );

  test("nobody there", async () => {
    const { error } = await outcome(ask({ random: () => 0 }, ownModel(`http://127.0.0.1:${await closedPort()}`)));
    expect(error).toMatchObject({ code: "upstream_unreachable", cause: { code: "ECONNREFUSED" } });
  });

  test("a connection that never stands is given up for all tries together", async () => {
    const { url } = await startMute();
    const startedAt = performance.now();
    const { error } = await outcome(ask({}, ownModel(url)));
    expect(error).toMatchObject({ code: "upstream_unreachable", cause: { code: "UND_ERR_CONNECT_TIMEOUT" } });
    // A second try of the same length would make it ten.
    expect(performance.now() - startedAt).toBeLessThan(7_500);
  });

  test("a request that cannot be written is our mistake, and is told as it is", async () => {
    const { error } = await outcome(ask({ headers: { "x-bad": "a\r\nb" } }));
    expect(error).not.toBeInstanceOf(CompletionError);
    expect(error).toMatchObject({ code: "UND_ERR_INVALID_ARG" });
    expect(upstream.requests).toEqual([]);
  });
});

describe("another try", () => {
  const passing: [what: string, handler: Handler][] = [
    ["408", faults.status(408)],
    ["409", faults.status(409)],
    ["429", faults.status(429)],
    ["500", faults.status(500)],
    ["503 whose body does not end", (_, res) => void res.writeHead(503).write("{")],
    ["a reset", faults.resetBeforeHeaders()],
  ];
  test.each(passing)("is made after %s, twice, and then all is well", async (_, handler) => {
    for (let i = 0; i < 2; i++) upstream.next(handler);
    const { text, end } = await outcome(ask());
    expect([text, end?.upstreamRequestId]).toEqual([replyText, lastId()]);
    expect(upstream.requests).toHaveLength(3);
    expect(new Set(upstream.requests.map(({ body }) => String(body))).size).toBe(1);
    const keys = upstream.requests.map(({ rawHeaders }) => rawHeaders.filter((it) => it.includes(KEY)));
    expect(keys).toEqual([1, 2, 3].map(() => [`Bearer ${KEY}`]));
  });

  test("is made when the line is back", async () => {
    const wire = await startWire(Number(new URL(upstream.url).port));
    onTestFinished(() => wire.close());
    const own = ownModel(wire.url(upstream.url));
    wire.refuse(true);
    const waits: number[] = [];
    const random = () => {
      waits.push(performance.now());
      wire.refuse(false);
      return withoutWaiting();
    };
    expect((await outcome(ask({ random }, own))).text).toBe(replyText);
    expect(waits).toHaveLength(1);
  });

  test("is not made where the connection broke after long work", async () => {
    upstream.next(async (req) => {
      await sleep(4_100);
      req.socket.resetAndDestroy();
    });
    expect((await outcome(ask())).error?.code).toBe("upstream_reset");
    expect(upstream.requests).toHaveLength(1);
  });

  test("waits longer the second time, more or less", async () => {
    upstream.when(() => true, faults.status(500));
    let asked = 0;
    const random = () => (asked++ === 0 ? 0 : 1);
    await outcome(ask({ random }));
    const [first = 0, second = 0, third = 0] = upstream.requests.map(({ startedAt }) => startedAt);
    expect(asked).toBe(2);
    expect(second - first).toBeGreaterThanOrEqual(249);
    expect(third - second).toBeGreaterThanOrEqual(999);
  });

  const in300Ms = { "retry-after-ms": "300" };
  const date = "Sat, 21 Nov 2026 12:00:00 GMT";
  const inOneSecond = { date, "retry-after": "Sat, 21 Nov 2026 12:00:01 GMT" };
  test.each<[what: string, headers: Record<string, string>, ms: number]>([
    ["retry-after-ms", in300Ms, 299],
    ["seconds", { "retry-after": "1" }, 999],
    ["a date, by the upstream's clock", inOneSecond, 999],
    ["a date that is past", { date, "retry-after": "Sat, 21 Nov 2026 11:00:00 GMT" }, 0],
    ["nonsense", { "retry-after": "soon" }, 0],
  ])("waits as long as the upstream asks in %s", async (_, headers, ms) => {
    upstream.next(faults.status(429, "", headers));
    expect((await outcome(ask())).text).toBe(replyText);
    const [first = 0, second = 0] = upstream.requests.map(({ startedAt }) => startedAt);
    expect(second - first).toBeGreaterThanOrEqual(ms);
  });

  test.each<[what: string, status: number, headers: Record<string, string>, seconds: number]>([
    ["seconds", 429, { "retry-after": "6" }, 6],
    ["seconds of a failure", 503, { "retry-after": "3600" }, 3600],
    ["milliseconds", 429, { "retry-after-ms": "5001", "retry-after": "1" }, 5.001],
    ["a date", 429, { date, "retry-after": "Sat, 21 Nov 2026 12:01:00 GMT" }, 60],
  ])("is not made where the upstream asks for more than five %s: it is told", async (_, status, headers, seconds) => {
    upstream.when(() => true, faults.status(status, "", headers));
    const { error } = await outcome(ask());
    expect([error?.code, error?.retryAfterSeconds]).toEqual([status === 429 ? "upstream_busy" : "upstream_failed", seconds]);
    expect(upstream.requests).toHaveLength(1);
  });

  test("is told when to make, where the last was in vain", async () => {
    upstream.when(() => true, faults.status(429, "", { "retry-after-ms": "50" }));
    expect((await outcome(ask())).error?.retryAfterSeconds).toBe(0.05);
    expect(upstream.requests).toHaveLength(3);
  });
});

describe("an abort", () => {
  const reason = new Error("stopped by a member");

  /** Aborts in the moment that the test chose, and tells what came of it. */
  async function aborted(when: (abort: () => void) => unknown, more: Partial<CompletionRequest> = {}, of: Model = model) {
    const controller = new AbortController();
    const completion = outcome(ask({ signal: controller.signal, ...more }, of));
    await when(() => controller.abort(reason));
    const { text, error } = await completion;
    expect(error).toBe(reason);
    return text;
  }
  const upstreamSawIt = async (request: number) => expect((await (await upstream.waitFor(request)).closed).aborted).toBe(true);

  test("before it began: the upstream is never called", async () => {
    const completion = ask({ signal: AbortSignal.abort(reason) });
    await expect(completion.next()).rejects.toBe(reason);
    expect(upstream.requests).toEqual([]);
  });

  test("while it begins: the same", async () => {
    await aborted((abort) => abort());
    expect(upstream.requests).toEqual([]);
  });

  test("while it connects: at once, and no timer is left behind", async () => {
    const { url, connected } = await startMute();
    const before = timers();
    await aborted(
      async (abort) => {
        await connected;
        abort();
      },
      {},
      ownModel(url),
    );
    expect(timers()).toBeLessThanOrEqual(before);
  });

  test("before the headers", async () => {
    upstream.next(faults.hang());
    await aborted(async (abort) => {
      await upstream.waitFor(1);
      abort();
    });
    await upstreamSawIt(1);
  });

  test("while a refusal is read", async () => {
    upstream.next(async (_, res, recorded) => {
      await recorded.complete;
      res.writeHead(500, { "content-type": "application/json" }).write("{");
    });
    const controller = new AbortController();
    const completion = outcome(ask({ signal: controller.signal }));
    await upstream.waitFor(1);
    // The headers come with the first byte of the body, and the rest of it never.
    await sleep(20);
    controller.abort(reason);
    expect((await completion).error).toBe(reason);
    await upstreamSawIt(1);
    expect(upstream.requests).toHaveLength(1);
  });

  test("while the next try is waited for: it is not made", async () => {
    upstream.when(() => true, faults.status(429, "", { "retry-after": "5" }));
    const controller = new AbortController();
    let abortedAt = 0;
    const random = () => {
      setImmediate(() => {
        abortedAt = performance.now();
        controller.abort(reason);
      });
      return 0;
    };
    expect((await outcome(ask({ signal: controller.signal, random }))).error).toBe(reason);
    // Not when the five seconds are over.
    expect(performance.now() - abortedAt).toBeLessThan(3_000);
    expect(upstream.requests).toHaveLength(1);
  });

  test("after the headers, before the first event", async () => {
    upstream.next(faults.stallAfter(0));
    await aborted(async (abort) => {
      await upstream.waitFor(1);
      abort();
    });
    await upstreamSawIt(1);
  });

  test("in the middle, while the next piece is waited for", async () => {
    upstream.next(faults.stallAfter(3));
    const controller = new AbortController();
    const completion = ask({ signal: controller.signal });
    for (const word of ["word-0 ", "word-1 ", "word-2 "]) expect((await completion.next()).value).toBe(word);
    const next = completion.next();
    controller.abort(reason);
    await expect(next).rejects.toBe(reason);
    await upstreamSawIt(1);
  });

  test("in the middle, between two pieces: those that have come already are not yielded", async () => {
    upstream.next(faults.stallAfter(3));
    const controller = new AbortController();
    const completion = ask({ signal: controller.signal });
    expect((await completion.next()).value).toBe("word-0 ");
    controller.abort(reason);
    await upstreamSawIt(1);
    await expect(completion.next()).rejects.toBe(reason);
    expect(await completion.next()).toEqual({ value: undefined, done: true });
  });

  test("whose reason is no error, or none, is thrown as it is", async () => {
    for (const odd of ["enough", undefined]) {
      upstream.next(faults.hang());
      const controller = new AbortController();
      const completion = ask({ signal: controller.signal }).next();
      await upstream.waitFor(upstream.requests.length + 1);
      controller.abort(odd);
      await expect(completion).rejects.toBe(controller.signal.reason);
    }
  });

  test("after the end changes nothing", async () => {
    const controller = new AbortController();
    expect((await outcome(ask({ signal: controller.signal }))).text).toBe(replyText);
    controller.abort(reason);
    expect((await upstream.requests[0]?.closed)?.aborted).toBe(false);
  });

  test("is what leaving early is for the upstream", async () => {
    upstream.next(faults.stream({ chunks: 10_000, gapMs: 1 }));
    for await (const piece of ask()) if (piece === "word-2 ") break;
    await upstreamSawIt(1);
  });

  test("leaves no listener behind on a signal that lives on", async () => {
    const { signal } = new AbortController();
    const [added, removed] = [vi.spyOn(signal, "addEventListener"), vi.spyOn(signal, "removeEventListener")];
    upstream.next(faults.status(500));
    await outcome(ask({ signal }));
    expect(added.mock.calls.length).toBeGreaterThan(0);
    for (const [, listener] of added.mock.calls) expect(removed.mock.calls.map(([, it]) => it)).toContain(listener);
  });

  test("200 times, in each phase: no socket stays behind but what the next calls use", async () => {
    const own = modelAt(upstream.url);
    const before = openSockets();
    const phases = {
      waiting: faults.hang(),
      silent: faults.stallAfter(0),
      stalled: faults.stallAfter(2),
      running: faults.stream({ chunks: 10_000, gapMs: 1 }),
    };
    const asksFor = (name: string) => (recorded: Recorded) => String(recorded.body).includes(`"${name}"`);
    for (const [name, handler] of Object.entries(phases)) {
      upstream.when(async (recorded) => recorded.complete.then(() => String(recorded.body).includes(`"${name}-`)), handler);
    }
    const names = Object.keys(phases);
    const abortOne = async (_: unknown, i: number) => {
      const controller = new AbortController();
      const name = `${names[i % names.length]}-${i}`;
      const completion = ask({ signal: controller.signal, model: name }, own);
      const first = completion.next();
      const hasText = i % names.length >= 2;
      await (hasText ? first : upstream.waitFor(asksFor(name)));
      controller.abort(reason);
      await expect(hasText ? completion.next() : first).rejects.toBe(reason);
    };
    const atOnce = 20;
    for (let round = 0; round < 10; round++) {
      await Promise.all(Array.from({ length: atOnce }, (_, i) => abortOne(_, atOnce * round + i)));
    }
    for (const { closed } of upstream.requests) expect((await closed).aborted).toBe(true);
    await until(() => openSockets() <= before + atOnce);
    expect(upstream.requests).toHaveLength(10 * atOnce);
    await own.close();
    await until(() => openSockets() <= before);
  });
});

test("a consumer that does not read stops the upstream, and loses nothing when it reads on", async () => {
  const MIB = 1024 * 1024;
  const total = 64 * MIB;
  const piece = Buffer.from(chunk({ content: "x".repeat(16_000) }).repeat(4));
  const pieces = Math.ceil(total / piece.length);
  let produced = 0;
  const server = createServer((_, res: ServerResponse) => {
    res.writeHead(200, { "content-type": "text/event-stream" });
    const more = () => {
      while (produced < pieces) {
        produced++;
        if (!res.write(piece)) return void res.once("drain", more);
      }
      res.end(DONE);
    };
    more();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const own = modelAt(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  onTestFinished(async () => {
    await own.close();
    server.close();
  });
  const completion = ask({}, own);
  let received = String((await completion.next()).value).length;
  await settled(() => produced);
  expect(produced * piece.length).toBeLessThan(24 * MIB);
  for await (const text of completion) received += text.length;
  expect(received).toBe(pieces * 4 * 16_000);
});

describe("a request to the upstream", () => {
  const request = { method: "POST", target: "/v1/x", headers: ["x-first", "1"], body: Buffer.from("{}") };

  test("has its answer's status, headers and body, whatever the status", async () => {
    upstream.next(faults.status(418, "short and stout", { "x-pot": "tea" }));
    const { signal } = new AbortController();
    const { status, headers, body } = await model.request({ ...request, signal });
    const chunks: Buffer[] = [];
    for await (const bytes of body) chunks.push(bytes);
    expect([status, headers["x-pot"], String(Buffer.concat(chunks))]).toEqual([418, "tea", "short and stout"]);
    expect(request.headers).toEqual(["x-first", "1"]);
  });

  test("is not sent once it was aborted, though the connection that it asked for comes to stand", async () => {
    const own = ownModel(upstream.url);
    const controller = new AbortController();
    const first = own.request({ ...request, signal: controller.signal });
    controller.abort(new Error("never mind"));
    await expect(first).rejects.toThrow("never mind");
    (await own.request({ ...request, target: "/v1/second", signal: new AbortController().signal })).body.destroy();
    expect(upstream.requests.map(({ target }) => target)).toEqual(["/v1/second"]);
  });

  test("waits for a connection as long as it is told to", async () => {
    const { url } = await startMute();
    const startedAt = performance.now();
    const asked = ownModel(url).request({ ...request, signal: new AbortController().signal, connectMs: 50 });
    await expect(asked).rejects.toMatchObject({ code: "UND_ERR_CONNECT_TIMEOUT" });
    // Without that it is five seconds.
    expect(performance.now() - startedAt).toBeLessThan(3_000);
  });
});

/** A server that takes connections and says nothing: one that wants TLS never stands. */
async function startMute() {
  const server = createTcpServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, connected: once(server, "connection") };
}

const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;

/** Everything an error tells, its causes included, as a log would write it. */
function told(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return [inspect(error, { depth: 5, showHidden: true }), JSON.stringify(error), told(error.cause)].join("\n");
}

async function closedPort(): Promise<number> {
  const server = createTcpServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
