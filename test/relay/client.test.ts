import OpenAI, { toFile } from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { KEY } from "../support/app.ts";
import { type Relay, startRelay } from "../support/relay.ts";
import { faults, type Recorded } from "../support/upstream.ts";
import { replyText, seededBytes } from "../support/upstream-answers.ts";

let relay: Relay;
/** The official client, once through us and once straight at the upstream. */
let ours: OpenAI;
let direct: OpenAI;

beforeAll(async () => {
  relay = await startRelay();
  ours = new OpenAI({ baseURL: `${relay.app.url}/v1`, apiKey: relay.token, maxRetries: 0 });
  direct = new OpenAI({ baseURL: `${relay.upstream.url}/v1`, apiKey: KEY, maxRetries: 0 });
});
afterEach(() => relay.reset());
afterAll(() => relay.close());

const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "grüße 🎉" }];
const chat = { model: "gpt-4o", messages };
const tools: OpenAI.ChatCompletionTool[] = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
const audio = () => toFile(seededBytes("audio", 30_000), "speech.mp3", { type: "audio/mpeg" });

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const bytes = async (answer: Response) => Buffer.from(await answer.arrayBuffer()).toString("base64");

/** Everything the product relays, as a developer writes it. */
const calls: Record<string, (client: OpenAI) => Promise<unknown>> = {
  "a chat completion": (client) => client.chat.completions.create(chat),
  "a streamed chat completion": async (client) => collect(await client.chat.completions.create({ ...chat, stream: true })),
  "a streamed chat completion with usage": async (client) =>
    collect(await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })),
  "the client's own stream helper": (client) => client.chat.completions.stream(chat).finalContent(),
  "a tool call": (client) => client.chat.completions.create({ ...chat, tools }),
  "a streamed tool call": async (client) => collect(await client.chat.completions.create({ ...chat, tools, stream: true })),
  "a tool's answer": (client) =>
    client.chat.completions.create({
      ...chat,
      tools,
      messages: [...messages, { role: "tool", tool_call_id: "c", content: "1" }],
    }),
  "a response": (client) => client.responses.create({ model: "gpt-4o", input: "hi" }),
  "a streamed response": async (client) => collect(await client.responses.create({ model: "gpt-4o", input: "hi", stream: true })),
  embeddings: (client) => client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] }),
  "embeddings as numbers": (client) =>
    client.embeddings.create({ model: "text-embedding-3-small", input: "a", dimensions: 256, encoding_format: "float" }),
  moderation: (client) => client.moderations.create({ input: ["kill", "hug"] }),
  models: async (client) => collect(await client.models.list()),
  "an image": (client) => client.images.generate({ model: "gpt-image-1", prompt: "a cat" }),
  "a file's upload": async (client) =>
    client.files.create({ purpose: "assistants", file: await toFile(seededBytes("up", 50_000), "a ü.bin") }),
  "a file's content": async (client) => bytes(await client.files.content("file-1")),
  "a file's deletion": (client) => client.files.delete("file-1"),
  "a file in a subfolder of the API": (client) => client.get("/vector_stores/vs 1/files?limit=2&order=desc"),
  speech: async (client) =>
    bytes(await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: "hello", response_format: "mp3" })),
  transcription: async (client) => client.audio.transcriptions.create({ model: "whisper-1", file: await audio() }),
};

describe("the official client gets the same through us as from the upstream", () => {
  test.each(Object.entries(calls))("%s", async (_, call) => {
    const straight = plain(await call(direct));
    expect(plain(await call(ours))).toEqual(straight);
    const [first, second, ...more] = relay.upstream.requests;
    expect(more).toEqual([]);
    expect(said(second)).toEqual(said(first));
    expect(second?.headers.authorization).toBe(`Bearer ${KEY}`);
  });

  test("what arrives is what the upstream said", async () => {
    const { data, response } = await ours.chat.completions.create(chat).withResponse();
    expect(data.choices[0]?.message.content).toBe(replyText);
    expect(data).toHaveProperty("_request_id", relay.upstream.requests[0]?.id);
    expect(response.headers.get("openai-processing-ms")).toBe("7");
    expect(response.headers.get("x-proxy-gpt-request-id")).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe("each failure of the upstream is the same error through us", () => {
  test.each([400, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504, 529])("%i", async (status) => {
    const fails = (client: OpenAI) => failure(client.chat.completions.create({ ...chat, model: `error-${status}` }));
    const [straight, relayed] = [await fails(direct), await fails(ours)];
    expect(relayed).toEqual(straight);
    expect(relayed.status).toBe(status);
    expect(said(relay.upstream.requests[1])).toEqual(said(relay.upstream.requests[0]));
  });

  test.each([400, 429, 500])("%i, where a stream was asked for", async (status) => {
    const fails = (client: OpenAI) =>
      failure(client.chat.completions.create({ ...chat, model: `error-${status}`, stream: true }));
    expect(await fails(ours)).toEqual(await fails(direct));
  });

  test("and nothing is tried again on the way: the client's retries are its own", async () => {
    const patient = new OpenAI({ baseURL: `${relay.app.url}/v1`, apiKey: relay.token, maxRetries: 1 });
    relay.upstream.next((_, res) => void res.writeHead(503, { "retry-after-ms": "1" }).end());
    expect((await patient.chat.completions.create(chat)).choices[0]?.message.content).toBe(replyText);
    expect(relay.upstream.requests.map(({ headers }) => headers["x-stainless-retry-count"])).toEqual(["0", "1"]);
  });

  test("but a 401 is about our key, and is told as 502", async () => {
    const refused = await failure(ours.chat.completions.create({ ...chat, model: "error-401" }));
    expect(refused).toMatchObject({ name: OpenAI.InternalServerError.name, status: 502, code: "upstream_key_rejected" });
    expect(refused.error).toMatchObject({ source: "gateway" });
  });
});

test("our own refusals are the client's own errors", async () => {
  const at = (apiKey: string) => new OpenAI({ baseURL: `${relay.app.url}/v1`, apiKey, maxRetries: 0 });
  const wrong = await failure(at("sk-wrong").models.list());
  expect(wrong).toMatchObject({
    name: "AuthenticationError",
    status: 401,
    code: "unauthenticated",
    type: "authentication_error",
  });
  const denied = await failure(at(relay.token).get("/organization/users"));
  expect(denied).toMatchObject({ name: "PermissionDeniedError", status: 403, code: "path_denied", type: "permission_error" });
  expect(relay.upstream.requests).toEqual([]);
});

test("a developer who stops reading, or aborts, ends the upstream's work", async () => {
  relay.upstream.when(() => true, faults.stream({ chunks: 10_000, gapMs: 5 }));
  for await (const _ of await ours.chat.completions.create({ ...chat, stream: true })) break;
  const controller = new AbortController();
  const stream = await ours.chat.completions.create({ ...chat, stream: true }, { signal: controller.signal });
  const reading = collect(stream);
  controller.abort();
  await reading;
  for (const { closed } of relay.upstream.requests) expect((await closed).aborted).toBe(true);
  await relay.logged(() => relay.lines.filter(({ status }) => status === 499).length === 2);
});

/** A result as JSON: without the id of the request, which the client hides in it and the upstream counts. */
const plain = (result: unknown): unknown => JSON.parse(JSON.stringify(result));

/** An error as a developer sees it. */
async function failure(call: Promise<unknown>) {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof OpenAI.APIError)) throw new Error(`expected an API error, got ${error}`);
  const { status, message, code, param, type, headers } = error;
  const kept = [...(headers ?? [])].filter(([name]) => !OWN_OR_COUNTED.has(name));
  return { name: error.constructor.name, status, message, code, param, type, error: error.error, headers: kept };
}

/** Of an answer's headers: those of one connection or moment, those that we add, and those that must not pass. */
const OWN_OR_COUNTED = new Set([
  ...["connection", "keep-alive", "date", "x-request-id", "transfer-encoding"],
  ...["x-proxy-gpt-request-id", "x-content-type-options", "content-security-policy", "access-control-expose-headers"],
  ...["set-cookie", "alt-svc", "strict-transport-security"],
]);

/** What the upstream was told, apart from the key and from what belongs to a connection. */
function said(recorded: Recorded | undefined) {
  if (!recorded) throw new Error("the upstream was not called");
  const { method, target, rawHeaders, body } = recorded;
  const [, boundary] = /boundary=(\S+)/.exec(recorded.headers["content-type"] ?? "") ?? [];
  const normal = (text: string) => (boundary ? text.replaceAll(boundary, "BOUNDARY") : text);
  const headers: string[] = [];
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] as string).toLowerCase();
    if (!OF_CONNECTION.has(name)) headers.push(`${name}: ${normal(rawHeaders[i + 1] as string)}`);
  }
  return { method, target, headers: headers.sort(), body: normal(body.toString("latin1")) };
}

const OF_CONNECTION = new Set(["authorization", "host", "connection", "transfer-encoding", "content-length"]);
