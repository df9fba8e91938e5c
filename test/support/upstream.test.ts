import { createHash } from "node:crypto";
import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";
import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { faults, startUpstream, type Upstream } from "./upstream.ts";
import { chatUsage, replyText, responseUsage, seededBytes, toolArguments } from "./upstream-answers.ts";
import { malformedBytes } from "./upstream-faults.ts";

let upstream: Upstream;
let client: OpenAI;

beforeAll(async () => {
  upstream = await startUpstream();
  client = new OpenAI({ baseURL: `${upstream.url}/v1`, apiKey: "sk-proj-0123456789abcdef", maxRetries: 0 });
});
afterEach(() => upstream.reset());
afterAll(() => upstream.close());

const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "hi" }];
const ask = { model: "gpt-4o", messages };
const send = (path = "/v1/chat/completions", init: RequestInit = {}) =>
  fetch(`${upstream.url}${path}`, {
    method: "POST",
    body: JSON.stringify(ask),
    headers: { "content-type": "application/json" },
    ...init,
  });

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

describe("the default answers", () => {
  test("chat: text, usage, a model list", async () => {
    const completion = await client.chat.completions.create(ask);
    expect(completion.choices[0]?.message.content).toBe(replyText);
    expect(completion.usage).toEqual(chatUsage);
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["gpt-4o", "gpt-4o-mini"]);
  });

  test("streamed chat: usage only when asked for", async () => {
    const plain = await collect(await client.chat.completions.create({ ...ask, stream: true }));
    expect(plain.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe(replyText);
    expect(plain.some((chunk) => "usage" in chunk)).toBe(false);
    const counted = await collect(
      await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }),
    );
    expect(counted.slice(0, -1).every(({ usage }) => usage === null)).toBe(true);
    expect(counted.at(-1)).toMatchObject({ choices: [], usage: chatUsage });
  });

  test("tools: a call, streamed and not, and text once it is answered", async () => {
    const tools: OpenAI.ChatCompletionTool[] = [{ type: "function", function: { name: "weather", parameters: {} } }];
    const called = { function: { name: "weather", arguments: toolArguments }, id: "call_1", type: "function" };
    const plain = await client.chat.completions.create({ ...ask, tools });
    expect(plain.choices).toMatchObject([{ finish_reason: "tool_calls", message: { content: null, tool_calls: [called] } }]);
    const streamed = await client.chat.completions.stream({ ...ask, tools }).finalChatCompletion();
    expect(streamed.choices).toMatchObject([{ finish_reason: "tool_calls", message: { tool_calls: [called] } }]);
    const answered = [...messages, plain.choices[0]?.message, { role: "tool", tool_call_id: "call_1", content: "3 °C" }];
    const last = await client.chat.completions.create({ ...ask, tools, messages: answered as typeof messages });
    expect(last.choices[0]?.message.content).toBe(replyText);
  });

  test("responses: streamed and not", async () => {
    const body = { model: "gpt-4o", input: "hi" };
    expect(await client.responses.create(body)).toMatchObject({ output_text: replyText, usage: responseUsage });
    expect(await client.responses.stream(body).finalResponse()).toMatchObject({ output_text: replyText, usage: responseUsage });
  });

  test("embeddings: base64 and float agree", async () => {
    const body = { model: "text-embedding-3-small", input: ["a", "b"], dimensions: 16 };
    const packed = await client.embeddings.create(body);
    const plain = await client.embeddings.create({ ...body, encoding_format: "float" });
    expect(packed.data).toEqual(plain.data);
    expect(packed.data.map(({ embedding }) => embedding.length)).toEqual([16, 16]);
  });

  test("files, audio, images and moderation", async () => {
    const file = new File([seededBytes("upload", 100_001)], "notes.bin");
    expect(await client.files.create({ file, purpose: "user_data" })).toMatchObject({
      bytes: 100_001,
      filename: "notes.bin",
      purpose: "user_data",
    });
    const content = await (await client.files.content("file-1")).arrayBuffer();
    expect(Buffer.from(content).equals(seededBytes("file-1", 65_536))).toBe(true);
    expect(await client.files.delete("file-1")).toMatchObject({ id: "file-1", deleted: true });

    const speech = await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: "hi" });
    expect(speech.headers.get("content-type")).toBe("audio/mpeg");
    expect(Buffer.from(await speech.arrayBuffer()).equals(seededBytes("speech", 200_000))).toBe(true);
    expect((await client.audio.transcriptions.create({ model: "whisper-1", file })).text).toContain("100001 bytes");
    expect((await client.images.generate({ prompt: "a cat" })).data?.[0]?.b64_json).toHaveLength(4000);

    const moderation = await client.moderations.create({ input: "I want to kill them." });
    expect(moderation.results[0]).toMatchObject({ flagged: true, categories: { violence: true, hate: false } });
  });

  test("models named error-<status> fail, in JSON and multipart bodies", async () => {
    for (const status of [400, 404, 429, 500]) {
      const failure = client.chat.completions.create({ ...ask, model: `error-${status}` });
      await expect(failure).rejects.toMatchObject({
        status,
        error: { message: expect.any(String) },
        requestID: expect.stringMatching(/^req_/),
      });
    }
    const limited = await send(undefined, { body: JSON.stringify({ model: "error-429" }) });
    expect([limited.headers.get("retry-after"), limited.headers.get("x-ratelimit-remaining-requests")]).toEqual(["1", "0"]);
    const file = new File(["x"], "x.wav");
    await expect(client.audio.transcriptions.create({ model: "error-401", file })).rejects.toThrow("sk-proj-*");
  });

  test("the rest of /v1 is echoed, Azure's paths are understood, other paths are 404", async () => {
    const body = seededBytes("body", 5000);
    const echoed = await send("/v1/batches?limit=2&x=%2F", { method: "PUT", body, headers: { "x-custom": "1" } });
    const sha256 = createHash("sha256").update(body).digest("hex");
    const expected = {
      method: "PUT",
      target: "/v1/batches?limit=2&x=%2F",
      headers: { "x-custom": "1" },
      body: { bytes: 5000, sha256 },
    };
    expect(await echoed.json()).toMatchObject(expected);
    expect((await send("/openai/deployments/mine/chat/completions?api-version=1")).status).toBe(200);
    expect((await send("/v2/anything")).status).toBe(404);
  });
});

describe("the record", () => {
  test("a request is kept as received, and its answer has the headers a gateway must filter", async () => {
    const response = await send("/v1/models/%67pt?a=b", { method: "POST", headers: { "X-Mixed-Case": "yes" } });
    await response.text();
    const [recorded] = upstream.requests;
    expect(recorded).toMatchObject({ method: "POST", target: "/v1/models/%67pt?a=b", headers: { "x-mixed-case": "yes" } });
    expect(recorded?.body.toString()).toBe(JSON.stringify(ask));
    expect(recorded?.rawHeaders).toContain("host");
    expect(response.headers.get("x-request-id")).toBe(recorded?.id);
    for (const name of [
      "set-cookie",
      "alt-svc",
      "strict-transport-security",
      "access-control-allow-origin",
      "openai-processing-ms",
    ]) {
      expect(response.headers.has(name)).toBe(true);
    }
    expect((await recorded?.closed)?.aborted).toBe(false);
  });

  test("waitFor answers for past and coming requests, by count, by predicate and by body", async () => {
    const second = upstream.waitFor(2);
    const marked = upstream.waitFor(({ body }) => body.includes("marked"));
    await (await send()).text();
    await (await send("/v1/batches", { body: "marked" })).text();
    expect((await second).target).toBe("/v1/batches");
    expect(await marked).toBe(await second);
    expect(await upstream.waitFor(1)).toBe(upstream.requests[0]);
  });

  test("an abort is noticed before the first byte, mid-stream and during the upload", async () => {
    const cases = [
      { handler: faults.hang(), body: "x" },
      { handler: faults.stream({ gapMs: 1, chunks: 1_000_000 }), body: "x" },
      { handler: faults.hang(), body: new ReadableStream({ start: (controller) => controller.enqueue(Buffer.from("part")) }) },
    ];
    for (const [index, { handler, body }] of cases.entries()) {
      upstream.next(handler);
      const aborter = new AbortController();
      const call = send("/v1/x", { body, signal: aborter.signal, duplex: "half" } as RequestInit);
      const recorded = await upstream.waitFor(index + 1);
      if (index === 1) await (await call).body?.getReader().read();
      aborter.abort();
      if (index !== 1) await expect(call).rejects.toThrow("aborted");
      const { aborted, atMs } = await recorded.closed;
      expect([aborted, atMs > recorded.startedAt]).toEqual([true, true]);
      if (index === 2) await expect(recorded.complete).rejects.toThrow("aborted");
    }
  });

  test("next is used once and in order, when lasts until reset, and the latest when wins", async () => {
    const answers = async () => (await send()).status;
    upstream.when(() => true, faults.status(201));
    upstream.when(async (recorded) => recorded.complete.then(() => recorded.body.includes("gpt-4o")), faults.status(202));
    upstream.next(faults.status(203));
    upstream.next(faults.status(206));
    expect([await answers(), await answers(), await answers(), await answers()]).toEqual([203, 206, 202, 202]);
    upstream.reset();
    expect([await answers(), upstream.requests.length]).toEqual([200, 1]);
  });
});

describe("faults", () => {
  test("a stall gives what it has and no end", async () => {
    upstream.next(faults.stallAfter(2));
    const reader = (await send()).body?.getReader();
    const { value } = (await reader?.read()) ?? {};
    expect(Buffer.from(value ?? []).toString()).toContain("word-1 ");
    await reader?.cancel();
    expect((await upstream.requests[0]?.closed)?.aborted).toBe(true);
  });

  test("resets come before the headers or after the words", async () => {
    upstream.next(faults.resetBeforeHeaders());
    await expect(send()).rejects.toThrow("fetch failed");
    for (const how of ["rst", "fin"] as const) {
      upstream.next(faults.resetMidStream(2, how));
      // Not fetch: it forgets what it has not handed over when the connection breaks.
      const [response] = (await once(get(`${upstream.url}/v1/stream`), "response")) as [IncomingMessage];
      let received = "";
      response.on("data", (chunk) => {
        received += chunk;
      });
      await expect(once(response, "end")).rejects.toMatchObject({ code: "ECONNRESET" });
      expect(received).toContain("word-1 ");
    }
  });

  test("a stream may end without its terminal event", async () => {
    upstream.next(faults.endWithoutTerminal(2));
    const body = await (await send()).text();
    expect(body).toContain("word-1 ");
    expect(body).not.toContain("[DONE]");
  });

  test("bytes arrive whole however they are cut", async () => {
    const bytes = seededBytes("slices", 2000);
    for (const handler of [faults.oneByteChunks(bytes, "audio/mpeg"), faults.slices(bytes, [1, 0, 700, 3])]) {
      upstream.next(handler);
      expect(Buffer.from(await (await send()).arrayBuffer()).equals(bytes)).toBe(true);
    }
    upstream.next(faults.malformedSse());
    expect(Buffer.from(await (await send()).arrayBuffer()).equals(malformedBytes)).toBe(true);
    expect(() => faults.slices(bytes, [0])).toThrow(RangeError);
  });

  test("redirect, gzip and any status", async () => {
    upstream.next(faults.redirect("https://example.com/elsewhere"));
    const redirected = await send(undefined, { redirect: "manual" });
    expect([redirected.status, redirected.headers.get("location")]).toEqual([302, "https://example.com/elsewhere"]);
    upstream.next(faults.gzip({ zipped: true }));
    const zipped = await send();
    expect([zipped.headers.get("content-encoding"), await zipped.json()]).toEqual(["gzip", { zipped: true }]);
    upstream.next(faults.status(418, { error: { message: "teapot" } }, { "x-kind": "pot" }));
    const status = await send();
    expect([status.status, status.headers.get("x-kind"), await status.json()]).toEqual([
      418,
      "pot",
      { error: { message: "teapot" } },
    ]);
  });

  test("a long stream has its words, its end and its usage", async () => {
    upstream.next(faults.stream({ chunks: 50, gapMs: 0, usage: true }));
    const chunks = await collect(await client.chat.completions.create({ ...ask, stream: true }));
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toMatch(/^word-0 .*word-49 $/);
    expect(chunks.at(-1)?.usage).toEqual(chatUsage);
  });
});

describe("realtime", () => {
  const connect = (path: string, protocols: string[] = []) =>
    new WebSocket(`${upstream.url.replace("http", "ws")}${path}`, protocols);
  const message = async (socket: WebSocket) => JSON.parse(String((await once(socket, "message"))[0]));

  test("text is echoed, response.create gets its usage, and the upgrade is recorded", async () => {
    const socket = connect("/v1/realtime?model=gpt-realtime", ["realtime", "openai-beta.realtime-v1"]);
    const [[upgrade]] = await Promise.all([once(socket, "upgrade"), once(socket, "open")]);
    expect(upgrade.headers).toMatchObject({ "x-request-id": upstream.requests[0]?.id, "alt-svc": expect.any(String) });
    expect(socket.protocol).toBe("realtime");
    socket.send("hällo");
    expect(await message(socket)).toEqual({ type: "echo", text: "hällo" });
    socket.send('{"type":"response.create"}');
    expect(await message(socket)).toMatchObject({ type: "response.done", response: { usage: { total_tokens: 30 } } });
    const recorded = await upstream.waitFor(1);
    expect(recorded.headers["sec-websocket-protocol"]).toBe("realtime,openai-beta.realtime-v1");
    expect(upstream.sockets.size).toBe(1);
    socket.close();
    expect((await recorded.closed).aborted).toBe(false);
  });

  test("a connection that just goes away is an abort, before and after the upgrade", async () => {
    const socket = connect("/v1/realtime");
    await once(socket, "open");
    socket.terminate();
    expect((await (await upstream.waitFor(1)).closed).aborted).toBe(true);
    upstream.next(faults.hang());
    const waiting = connect("/v1/realtime").on("error", () => {});
    const recorded = await upstream.waitFor(2);
    waiting.terminate();
    expect((await recorded.closed).aborted).toBe(true);
  });

  test("an upgrade can be refused", async () => {
    const [, response] = await once(connect("/v1/realtime?model=refuse"), "unexpected-response");
    expect(response.statusCode).toBe(403);
    const body = Buffer.concat(await collect<Buffer>(response));
    expect(JSON.parse(body.toString())).toMatchObject({ error: { code: "model_not_allowed" } });
    expect((await upstream.requests[0]?.closed)?.aborted).toBe(false);
  });
});

test("close ends what is running and rejects who still waits", async () => {
  const other = await startUpstream();
  other.next(faults.hang());
  const call = expect(fetch(`${other.url}/v1/models`)).rejects.toThrow("fetch failed");
  await other.waitFor(1);
  const never = expect(other.waitFor(2)).rejects.toThrow("the upstream was closed");
  await Promise.all([other.close(), call, never]);
});
