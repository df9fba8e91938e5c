import { createCipheriv, createHash } from "node:crypto";
import type { ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Handler, Recorded } from "./upstream.ts";

type Json = Record<string, unknown>;

/** What the upstream says to everything, in pieces as it streams them; some have several bytes a character. */
export const replyPieces = ["Hello", " from", " the", " upstream", ": Straße,", " 日本", "語,", " 🎉", "."];
export const replyText = replyPieces.join("");
export const toolArguments = '{"city":"Zürich","unit":"celsius"}';
export const chatUsage = { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 };
export const responseUsage = {
  input_tokens: 9,
  input_tokens_details: { cached_tokens: 0 },
  output_tokens: 12,
  output_tokens_details: { reasoning_tokens: 0 },
  total_tokens: 21,
};
const created = 1_700_000_000;

/** Bytes that look random and are the same for the same seed. `/v1/audio/speech` answers `seededBytes("speech", 200_000)`. */
export function seededBytes(seed: string, length: number): Buffer<ArrayBuffer> {
  const key = createHash("md5").update(seed).digest();
  return Buffer.from(createCipheriv("aes-128-ctr", key, Buffer.alloc(16)).update(Buffer.alloc(length)));
}

/** OpenAI's API: the routes below, `model: "error-<status>"` for a failure, an echo for the rest of `/v1`. */
export const answerByDefault: Handler = async (_, res, recorded) => {
  await recorded.complete;
  const path = recorded.target.split("?", 1)[0] ?? "";
  // Azure has the same operations under /openai/v1 and /openai/deployments/<name>.
  const operation = path.replace(/^\/v1|^\/openai\/(v1|deployments\/[^/]+)/, "");
  if (operation === path) return sendError(res, 404, "unknown_url", `Invalid URL (${recorded.method} ${path})`);

  const body = bodyOf(recorded);
  const [, failure] = /^error-(\d{3})$/.exec(String(body.model)) ?? [];
  if (failure) return fail(res, Number(failure), recorded);
  const file = /^\/files\/([^/]+)(\/content)?$/.exec(operation);
  const route = routes[`${recorded.method} ${file ? `/files/{id}${file[2] ?? ""}` : operation}`];
  return route ? route(res, body, file?.[1] ?? "", recorded) : echo(res, recorded);
};

type Route = (res: ServerResponse, body: Json, id: string, recorded: Recorded) => void | Promise<void>;

const routes: Record<string, Route> = {
  "GET /models": (res) => {
    const data = ["gpt-4o", "gpt-4o-mini"].map((id) => ({ id, object: "model", created, owned_by: "system" }));
    sendJson(res, 200, { object: "list", data });
  },

  "POST /chat/completions": (res, body) => {
    const answeredTool = Array.isArray(body.messages) && body.messages.at(-1)?.role === "tool";
    const tool = Array.isArray(body.tools) && !answeredTool ? (body.tools[0]?.function?.name as string) : null;
    if (body.stream === true) return sendEvents(res, chatEvents(body, tool));
    const call = { id: "call_1", type: "function", function: { name: tool, arguments: toolArguments } };
    const message = tool ? { role: "assistant", content: null, tool_calls: [call] } : { role: "assistant", content: replyText };
    const choice = {
      index: 0,
      message: { ...message, refusal: null },
      logprobs: null,
      finish_reason: tool ? "tool_calls" : "stop",
    };
    const envelope = { id: "chatcmpl-1", object: "chat.completion", created, model: body.model };
    sendJson(res, 200, { ...envelope, choices: [choice], usage: chatUsage, service_tier: "default" });
  },

  "POST /responses": (res, body) => {
    const { started, finished } = response(body);
    return body.stream === true ? sendEvents(res, responseEvents(started, finished)) : sendJson(res, 200, finished);
  },

  "POST /embeddings": (res, body) => {
    const inputs = Array.isArray(body.input) ? body.input : [body.input];
    const data = inputs.map((input, index) => {
      const vector = Float32Array.from(seededBytes(String(input), Number(body.dimensions ?? 1536)), (byte) => byte / 128 - 1);
      const embedding = body.encoding_format === "base64" ? Buffer.from(vector.buffer).toString("base64") : [...vector];
      return { object: "embedding", index, embedding };
    });
    sendJson(res, 200, { object: "list", data, model: body.model, usage: { prompt_tokens: 8, total_tokens: 8 } });
  },

  "POST /files": (res, body) => {
    const { name, bytes } = fileOf(body);
    sendJson(res, 200, {
      id: "file-1",
      object: "file",
      bytes,
      created_at: created,
      filename: name,
      purpose: body.purpose,
      status: "processed",
    });
  },
  "GET /files/{id}/content": (res, _, id) => sendBytes(res, "application/octet-stream", seededBytes(id, 65_536)),
  "DELETE /files/{id}": (res, _, id) => sendJson(res, 200, { id, object: "file", deleted: true }),

  "POST /audio/speech": async (res) => {
    const audio = seededBytes("speech", 200_000);
    res.writeHead(200, { "content-type": "audio/mpeg" });
    const slices = Array.from({ length: Math.ceil(audio.length / 8192) }, (_, at) => audio.subarray(8192 * at, 8192 * (at + 1)));
    await pipeline(Readable.from(slices), res);
  },
  "POST /audio/transcriptions": (res, body) => {
    const usage = { type: "tokens", input_tokens: 14, output_tokens: 12, total_tokens: 26 };
    sendJson(res, 200, { text: `${replyText} (${fileOf(body).bytes} bytes of audio)`, usage });
  },

  "POST /images/generations": (res) => {
    const usage = {
      total_tokens: 100,
      input_tokens: 50,
      output_tokens: 50,
      input_tokens_details: { text_tokens: 10, image_tokens: 40 },
    };
    sendJson(res, 200, { created, data: [{ b64_json: seededBytes("image", 3000).toString("base64") }], usage });
  },

  "POST /moderations": (res, body) => {
    const flagged = /\bkill\b/i.test(JSON.stringify(body.input));
    const categories = moderationCategories.map((name) => [name, flagged && name === "violence"] as const);
    const scores = categories.map(([name, hit]) => [name, hit ? 0.9 : 0.0001] as const);
    const inputs = categories.map(([name]) => [name, ["text"]] as const);
    const result = {
      flagged,
      categories: Object.fromEntries(categories),
      category_scores: Object.fromEntries(scores),
      category_applied_input_types: Object.fromEntries(inputs),
    };
    sendJson(res, 200, { id: "modr-1", model: body.model ?? "omni-moderation-latest", results: [result] });
  },
};

const moderationCategories = [
  ...["harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"],
  ...["self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic"],
];

/** The events of a streamed completion, `[DONE]` last. `tool` is the function to call, null for the usual text. */
function* chatEvents(body: Json, tool: string | null): Iterable<string> {
  const withUsage = (body.stream_options as Json | undefined)?.include_usage === true;
  const envelope = { id: "chatcmpl-1", object: "chat.completion.chunk", created, model: body.model, service_tier: "default" };
  const pending = withUsage ? { usage: null } : {};
  const choose = (delta: Json, finish_reason: string | null = null) =>
    sse({ ...envelope, choices: [{ index: 0, delta, logprobs: null, finish_reason }], ...pending });

  if (tool) {
    const call = { index: 0, id: "call_1", type: "function", function: { name: tool, arguments: "" } };
    yield choose({ role: "assistant", content: null, tool_calls: [call] });
    for (const piece of toolArguments.match(/.{1,7}/g) ?? []) {
      yield choose({ tool_calls: [{ index: 0, function: { arguments: piece } }] });
    }
  } else {
    yield choose({ role: "assistant", content: "", refusal: null });
    for (const content of replyPieces) yield choose({ content });
  }
  yield choose({}, tool ? "tool_calls" : "stop");
  if (withUsage) yield sse({ ...envelope, choices: [], usage: chatUsage });
  yield "data: [DONE]\n\n";
}

function response(body: Json): { started: Json; finished: Json & { output: Json[] } } {
  const started = {
    ...{ id: "resp_1", object: "response", created_at: created, status: "in_progress", error: null, incomplete_details: null },
    ...{ instructions: body.instructions ?? null, metadata: {}, model: body.model, output: [], parallel_tool_calls: true },
    ...{ temperature: 1, tool_choice: "auto", tools: [], top_p: 1, usage: null },
  };
  const content = [{ type: "output_text", text: replyText, annotations: [], logprobs: [] }];
  const output = [{ id: "msg_1", type: "message", role: "assistant", status: "completed", content }];
  return { started, finished: { ...started, status: "completed", output, usage: responseUsage } };
}

function* responseEvents(started: Json, finished: Json & { output: Json[] }): Iterable<string> {
  let sequence = 0;
  const send = (type: string, fields: Json) => sse({ type, sequence_number: sequence++, ...fields }, type);
  const at = { item_id: "msg_1", output_index: 0, content_index: 0 };
  const part = { type: "output_text", text: "", annotations: [], logprobs: [] };
  const [item] = finished.output;

  yield send("response.created", { response: started });
  yield send("response.in_progress", { response: started });
  yield send("response.output_item.added", { output_index: 0, item: { ...item, status: "in_progress", content: [] } });
  yield send("response.content_part.added", { ...at, part });
  for (const delta of replyPieces) yield send("response.output_text.delta", { ...at, delta, logprobs: [] });
  yield send("response.output_text.done", { ...at, text: replyText, logprobs: [] });
  yield send("response.content_part.done", { ...at, part: { ...part, text: replyText } });
  yield send("response.output_item.done", { output_index: 0, item });
  yield send("response.completed", { response: finished });
}

/** OpenAI's words for a status; a 401 quotes the ends of the key as OpenAI's does. */
function fail(res: ServerResponse, status: number, { headers }: Recorded): void {
  const key = (headers.authorization ?? "").replace(/^Bearer /i, "");
  if (status === 429) {
    res.setHeader("retry-after", "1");
    for (const kind of ["requests", "tokens"]) {
      res.setHeader(`x-ratelimit-limit-${kind}`, "60").setHeader(`x-ratelimit-remaining-${kind}`, "0");
      res.setHeader(`x-ratelimit-reset-${kind}`, "1s");
    }
  }
  const [code, message] = failures[status] ?? [
    "server_error",
    "The server had an error while processing your request. Sorry about that!",
  ];
  sendError(res, status, code, message.replace("{key}", `${key.slice(0, 8)}${"*".repeat(20)}${key.slice(-4)}`));
}

const failures: Record<number, [code: string, message: string]> = {
  400: ["invalid_value", "Invalid value for 'temperature': expected a number between 0 and 2."],
  401: [
    "invalid_api_key",
    "Incorrect API key provided: {key}. You can find your API key at https://platform.openai.com/account/api-keys.",
  ],
  404: ["model_not_found", "The model `error-404` does not exist or you do not have access to it."],
  429: ["rate_limit_exceeded", "Rate limit reached for requests. Please try again in 1s."],
};

function echo(res: ServerResponse, { method, target, headers, body }: Recorded): void {
  const sha256 = createHash("sha256").update(body).digest("hex");
  sendJson(res, 200, { object: "echo", method, target, headers, body: { bytes: body.length, sha256 } });
}

/** The fields of a JSON or multipart body; a body that is neither, or broken, has none. */
function bodyOf({ headers, body }: Recorded): Json {
  const type = headers["content-type"] ?? "";
  const [, boundary] = /boundary="?([^";]+)/.exec(type) ?? [];
  if (boundary) return multipartFields(body, boundary);
  if (!type.includes("json")) return {};
  try {
    return Object(JSON.parse(body.toString("utf8")));
  } catch {
    return {};
  }
}

/** latin1 keeps one character per byte, so the length of a file is its size. */
function multipartFields(body: Buffer, boundary: string): Json {
  const parts = body.toString("latin1").split(`--${boundary}`).slice(1, -1);
  const fields = parts.map((part) => {
    const end = part.indexOf("\r\n\r\n");
    const [head, value] = [part.slice(0, end), part.slice(end + 4, -2)];
    const [, name = ""] = /[; ]name="([^"]*)"/.exec(head) ?? [];
    const [, filename] = /filename="([^"]*)"/.exec(head) ?? [];
    return [name, filename === undefined ? value : { name: filename, bytes: value.length }];
  });
  return Object.fromEntries(fields);
}

function fileOf(body: Json): { name: string; bytes: number } {
  return (body.file as { name: string; bytes: number } | undefined) ?? { name: "", bytes: 0 };
}

/** One server-sent event as OpenAI writes it. */
export function sse(data: unknown, name?: string): string {
  return `${name ? `event: ${name}\n` : ""}data: ${JSON.stringify(data)}\n\n`;
}

async function sendEvents(res: ServerResponse, events: Iterable<string>): Promise<void> {
  res.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" });
  await pipeline(Readable.from(events), res);
}

export function sendError(res: ServerResponse, status: number, code: string, message: string): void {
  const type = status < 500 ? "invalid_request_error" : "server_error";
  sendJson(res, status, { error: { message, type, param: null, code } });
}

function sendJson(res: ServerResponse, status: number, body: unknown): void {
  const bytes = Buffer.from(JSON.stringify(body));
  res.writeHead(status, { "content-type": "application/json", "content-length": bytes.length }).end(bytes);
}

function sendBytes(res: ServerResponse, contentType: string, bytes: Buffer): void {
  res.writeHead(200, { "content-type": contentType, "content-length": bytes.length }).end(bytes);
}
