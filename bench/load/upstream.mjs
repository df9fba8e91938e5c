/**
 * The model behind every measured relay: plain node:http, answers made in advance, behaviour taken from the model name
 * (`modelName` in chat.mjs). In a stream with a gap each chunk says when it was written, on the clock that all processes
 * of a machine share (`process.hrtime`), so that a reader can tell how long it was under way.
 *
 *   node upstream.mjs <port>
 *   POST /v1/chat/completions · GET / · GET /stats → { open, aborts: [{ tag, atNs }] }
 */
import http from "node:http";
import { behaviourOf } from "./chat.mjs";

const CREATED = 1_790_000_000;

const ANSWER = Buffer.from(
  JSON.stringify({
    id: "chatcmpl-bench",
    object: "chat.completion",
    created: CREATED,
    model: "bench",
    choices: [
      {
        index: 0,
        message: {
          role: "assistant",
          content: "A short answer of the kind people get. ".repeat(16),
          refusal: null,
          annotations: [],
        },
        logprobs: null,
        finish_reason: "stop",
      },
    ],
    usage: {
      prompt_tokens: 200,
      completion_tokens: 120,
      total_tokens: 320,
      prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
      completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 },
    },
    service_tier: "default",
  }),
);
const JSON_HEADERS = { "content-type": "application/json", "x-request-id": "req_bench", "openai-processing-ms": "1" };
const STREAM_HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  "x-request-id": "req_bench",
};

/** Tagged calls whose client went away before they were answered. @type {{ tag: string, atNs: string }[]} */
const aborts = [];
/** Calls that are neither answered nor aborted. */
let open = 0;
const WORD = Buffer.from(chunk('{"content":" lorem"}'));

const server = http.createServer((request, response) => {
  if (request.url === "/stats") return sendJson(response, Buffer.from(JSON.stringify({ open, aborts })));
  if (request.method === "GET") return sendJson(response, Buffer.from("{}"));
  /** @type {Buffer[]} */
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => answer(response, Buffer.concat(pieces).toString("latin1")));
});
server.keepAliveTimeout = 60_000;
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });

function answer(/** @type {http.ServerResponse} */ response, /** @type {string} */ body) {
  const behaviour = behaviourOf(/"model":"([^"]*)"/.exec(body)?.[1] ?? "");
  const begin = body.includes('"stream":true')
    ? () => stream(response, behaviour, body.includes('"include_usage":true'))
    : () => sendJson(response, ANSWER);
  open++;
  const waiting = behaviour.delayMs > 0 ? setTimeout(begin, behaviour.delayMs) : null;
  response.on("close", () => {
    open--;
    if (waiting !== null) clearTimeout(waiting);
    if (behaviour.tag && !response.writableFinished) aborts.push({ tag: behaviour.tag, atNs: String(process.hrtime.bigint()) });
  });
  if (waiting === null) begin();
}

function stream(
  /** @type {http.ServerResponse} */ response,
  /** @type {ReturnType<typeof behaviourOf>} */ { chunks, gapMs },
  /** @type {boolean} */ withUsage,
) {
  response.writeHead(200, STREAM_HEADERS);
  response.write(chunk('{"role":"assistant","content":"","refusal":null}'));
  let sent = 0;
  const end = () => response.end(`${chunk("{}", '"stop"')}${withUsage ? usageChunk(chunks) : ""}data: [DONE]\n\n`);
  if (gapMs === 0) {
    for (; sent < chunks; sent++) response.write(WORD);
    end();
    return;
  }
  const next = () => {
    if (sent++ === chunks) end();
    else if (sent <= chunks) response.write(chunk(`{"content":" t${process.hrtime.bigint()}"}`));
  };
  const timer = setInterval(next, gapMs);
  response.on("close", () => clearInterval(timer));
  next();
}

function chunk(/** @type {string} */ delta, finishReason = "null") {
  return `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":${CREATED},"model":"bench","service_tier":"default","choices":[{"index":0,"delta":${delta},"logprobs":null,"finish_reason":${finishReason}}]}\n\n`;
}

function usageChunk(/** @type {number} */ tokens) {
  return `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":${CREATED},"model":"bench","choices":[],"usage":{"prompt_tokens":200,"completion_tokens":${tokens},"total_tokens":${200 + tokens}}}\n\n`;
}

function sendJson(/** @type {http.ServerResponse} */ response, /** @type {Buffer} */ bytes) {
  response.writeHead(200, { ...JSON_HEADERS, "content-length": bytes.length });
  response.end(bytes);
}
