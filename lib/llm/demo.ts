import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { type Answer, completeChat, respond } from "./demo-answers.ts";
import { type Json, parseBody, Refusal } from "./demo-input.ts";
import { embed, moderate } from "./demo-numbers.ts";

const maxBodyBytes = 32 * 1024 * 1024;
const wordGapMs = 15;

/** Chat, responses and embeddings answer to any model name; these are the ones listed. */
const modelIds = [
  "demo",
  "gpt-4o",
  "gpt-4o-mini",
  "gpt-4",
  "gpt-3.5-turbo",
  "text-embedding-3-small",
  "text-embedding-3-large",
  "omni-moderation-latest",
];

interface Route {
  method: "GET" | "POST";
  path: RegExp;
  answer(body: Json, id: string): Answer;
}

const routes: Route[] = [
  { method: "GET", path: /^\/v1\/models$/, answer: listModels },
  { method: "GET", path: /^\/v1\/models\/([^/]+)$/, answer: (_, id) => findModel(id) },
  { method: "POST", path: /^\/v1\/chat\/completions$/, answer: completeChat },
  { method: "POST", path: /^\/v1\/responses$/, answer: respond },
  { method: "POST", path: /^\/v1\/embeddings$/, answer: embed },
  { method: "POST", path: /^\/v1\/moderations$/, answer: moderate },
];

/**
 * Starts the built-in demo model: an OpenAI-compatible server on loopback that needs no key and whose answers say what
 * they are. `port` 0, the default, takes a free one; a taken port rejects with EADDRINUSE. `url` has no path: append `/v1`.
 * `close` cuts the streams that are still running.
 */
export async function startDemo(options: { port?: number } = {}): Promise<{ url: string; close(): Promise<void> }> {
  const server = createServer((req, res) => void handle(req, res));
  server.listen(options.port ?? 0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    async close() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

/** Never rejects: a client that is gone gets nothing, any other failure an error object. */
async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
  res.setHeader("x-request-id", `req_${randomUUID().replaceAll("-", "")}`);
  try {
    const bytes = await readBody(req);
    await send(res, answer(req, res, bytes));
  } catch (error) {
    if (res.headersSent || res.destroyed) res.destroy();
    else sendError(res, error);
  }
}

function answer(req: IncomingMessage, res: ServerResponse, bytes: Buffer): Answer {
  const path = (req.url ?? "/").split("?", 1)[0] ?? "/";
  const found = routes.filter((route) => route.path.test(path));
  if (found.length === 0)
    throw new Refusal(404, "unknown_url", `Unknown URL: ${req.method} ${path}. The demo model has no such endpoint.`);
  const route = found.find(({ method }) => method === req.method);
  if (!route) {
    const allowed = found.map(({ method }) => method).join(", ");
    res.setHeader("allow", allowed);
    throw new Refusal(405, "method_not_supported", `${path} does not take ${req.method}; use ${allowed}.`);
  }
  const body = route.method === "POST" ? parseBody(bytes) : {};
  return route.answer(body, route.path.exec(path)?.[1] ?? "");
}

/** A body over the bound is read to its end and dropped: a client still sending would never see the answer. */
async function readBody(req: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of req as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size <= maxBodyBytes) chunks.push(chunk);
  }
  if (size > maxBodyBytes)
    throw new Refusal(413, "request_too_large", `The request body exceeds ${maxBodyBytes} bytes. Send less.`);
  return Buffer.concat(chunks);
}

async function send(res: ServerResponse, answer: Answer): Promise<void> {
  if ("json" in answer) return sendJson(res, 200, answer.json);
  res.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" });
  await pipeline(Readable.from(paced(answer.events)), res);
}

/** `pipeline` ends this loop when the client disconnects. */
async function* paced(events: Iterable<string>): AsyncIterable<string> {
  for (const event of events) {
    yield event;
    await sleep(wordGapMs);
  }
}

function sendError(res: ServerResponse, error: unknown): void {
  const known = error instanceof Refusal ? error : new Refusal(500, "server_error", "The demo model failed. Try again.");
  const type = known.status < 500 ? "invalid_request_error" : "server_error";
  sendJson(res, known.status, { error: { message: known.message, type, param: known.param, code: known.code } });
}

function sendJson(res: ServerResponse, status: number, body: unknown): void {
  const bytes = Buffer.from(JSON.stringify(body));
  res.writeHead(status, { "content-type": "application/json", "content-length": bytes.length }).end(bytes);
}

function listModels(): Answer {
  return { json: { object: "list", data: modelIds.map(describeModel) } };
}

function findModel(id: string): Answer {
  if (!modelIds.includes(id)) throw new Refusal(404, "model_not_found", `The model '${id}' does not exist.`, "model");
  return { json: describeModel(id) };
}

function describeModel(id: string): Json {
  return { id, object: "model", created: 1_700_000_000, owned_by: "proxy-gpt-demo" };
}
