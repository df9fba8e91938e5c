import { channel } from "node:diagnostics_channel";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startDemo } from "../lib/llm/demo.ts";

let demo: Awaited<ReturnType<typeof startDemo>>;
let client: OpenAI;

beforeAll(async () => {
  demo = await startDemo();
  client = new OpenAI({ baseURL: `${demo.url}/v1`, apiKey: "none", maxRetries: 0 });
});
afterAll(() => demo.close());

const spain =
  "This is proxy-gpt's demo model. You asked: “tell me about spain”. Set API_KEY to an OpenAI key and start again to get real answers.";
const spainTokens = Math.ceil(spain.length / 4);
const ask = (content: string): OpenAI.ChatCompletionUserMessageParam[] => [{ role: "user", content }];

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** What OpenAI says when it refuses; fails the test when it does not. */
async function refusal(call: Promise<unknown>): Promise<{ status: number; code: string; param: string | null }> {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof OpenAI.APIError)) throw new Error(`expected an API error, got ${error}`);
  expect(error.error).toEqual({
    message: expect.any(String),
    type: expect.any(String),
    param: error.param ?? null,
    code: error.code,
  });
  return { status: error.status ?? 0, code: error.code ?? "", param: error.param ?? null };
}

const post = (path: string, body: RequestInit["body"], method = "POST") =>
  fetch(`${demo.url}${path}`, {
    method,
    ...(body === undefined ? {} : { body }),
    headers: { "content-type": "application/json" },
  });

describe("models", () => {
  test("the list can be read, and each model in it", async () => {
    const list = await client.models.list();
    expect(list.data.map(({ id }) => id)).toContain("demo");
    for (const model of list.data) expect(await client.models.retrieve(model.id)).toEqual(model);
  });

  test("a model that is not in the list is 404", async () => {
    expect(await refusal(client.models.retrieve("nope"))).toEqual({ status: 404, code: "model_not_found", param: "model" });
  });
});

describe("chat completions", () => {
  test("the answer says that it is the demo, repeats the question, and is the same every time", async () => {
    const complete = () => client.chat.completions.create({ model: "gpt-4o", messages: ask("tell me\n about  spain") });
    const [first, second] = await Promise.all([complete(), complete()]);
    expect(first).toMatchObject({ object: "chat.completion", model: "gpt-4o" });
    expect(first.choices).toMatchObject([{ index: 0, finish_reason: "stop", message: { role: "assistant", content: spain } }]);
    expect(second.choices).toEqual(first.choices);
    expect(first.usage).toMatchObject({ prompt_tokens: 6, completion_tokens: spainTokens, total_tokens: 6 + spainTokens });
  });

  test("earlier messages and the system prompt show in the answer", async () => {
    const { choices } = await client.chat.completions.create({
      model: "demo",
      messages: [
        { role: "system", content: "Speak like a pirate." },
        ...ask("hello"),
        { role: "assistant", content: "ahoy" },
        ...ask("where to?"),
      ],
    });
    expect(choices[0]?.message.content).toContain(
      "You asked: “where to?” (2 earlier messages of context, system prompt “Speak like a pirate.”).",
    );
  });

  test("a long question is quoted in part, without breaking a character", async () => {
    const { choices } = await client.chat.completions.create({ model: "demo", messages: ask("🎉".repeat(5000)) });
    expect(choices[0]?.message.content).toContain(`You asked: “${"🎉".repeat(200)}…”.`);
  });

  test("max_tokens cuts the answer and finish_reason says so", async () => {
    const { choices, usage } = await client.chat.completions.create({
      model: "demo",
      messages: ask("tell me about spain"),
      max_completion_tokens: 5,
    });
    expect(choices).toMatchObject([{ finish_reason: "length", message: { content: spain.slice(0, 20) } }]);
    expect(usage?.completion_tokens).toBe(5);
  });

  test("a stream comes word by word and has no usage unless it was asked for", async () => {
    const chunks = await collect(
      await client.chat.completions.create({ model: "demo", messages: ask("tell me about spain"), stream: true }),
    );
    expect(chunks[0]?.choices[0]?.delta).toMatchObject({ role: "assistant", content: "" });
    expect(chunks.slice(1, 4).map(({ choices }) => choices[0]?.delta.content)).toEqual(["This ", "is ", "proxy-gpt's "]);
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe(spain);
    expect(chunks.map(({ choices }) => choices[0]?.finish_reason).filter(Boolean)).toEqual(["stop"]);
    expect(chunks.some((chunk) => "usage" in chunk)).toBe(false);
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  });

  test("with include_usage every chunk has usage null, the last one no choices and the numbers, then [DONE]", async () => {
    const body = { model: "demo", messages: ask("tell me about spain"), stream: true, stream_options: { include_usage: true } };
    const response = await post("/v1/chat/completions", JSON.stringify(body));
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const data = (await response.text()).split("\n\n").map((event) => event.replace(/^data: /, ""));
    expect(data.slice(-2)).toEqual(["[DONE]", ""]);
    const chunks = data.slice(0, -2).map((text) => JSON.parse(text));
    expect(chunks.slice(0, -1).every(({ usage, choices }) => usage === null && choices.length === 1)).toBe(true);
    expect(chunks.at(-1)).toMatchObject({
      choices: [],
      usage: { prompt_tokens: 5, completion_tokens: spainTokens, total_tokens: 5 + spainTokens },
    });
  });

  test("images are described by address and name, or by type and size", async () => {
    const dot = Buffer.alloc(68).toString("base64");
    const images = ["https://example.com/pets/cat.png", `data:image/png;base64,${dot}`, "data:"];
    const { choices, usage } = await client.chat.completions.create({
      model: "demo",
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "what is it?" },
            ...images.map((url) => ({ type: "image_url" as const, image_url: { url } })),
          ],
        },
      ],
    });
    expect(choices[0]?.message.content).toContain(
      "You asked: “what is it?”. I was shown an image at https://example.com/pets/cat.png, named cat.png; " +
        "an inline image of type image/png and 68 bytes; an inline image of type text/plain and 0 bytes.",
    );
    expect(usage?.prompt_tokens).toBe(3 + 3 * 85);
  });

  test("a client that disconnects ends the stream, and the next one is served", async () => {
    const responses: ServerResponse[] = [];
    const requests = channel("http.server.request.start");
    const remember = (message: unknown) => responses.push((message as { response: ServerResponse }).response);
    requests.subscribe(remember);
    const aborter = new AbortController();
    const body = { model: "demo", messages: ask("word ".repeat(40)), stream: true as const };
    const stream = await client.chat.completions.create(body, { signal: aborter.signal });
    requests.unsubscribe(remember);
    const [response] = responses;
    if (!response) throw new Error("the request was not seen");
    const closed = once(response, "close");
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) aborter.abort();
    await closed;
    expect(response.writableFinished).toBe(false);
    expect((await client.models.list()).data).not.toHaveLength(0);
  });
});

describe("responses", () => {
  test("a text input is answered, with usage", async () => {
    const response = await client.responses.create({ model: "gpt-4o", input: "tell me about spain", instructions: "Be brief." });
    expect(response.output_text).toContain("You asked: “tell me about spain” (system prompt “Be brief.”).");
    expect(response).toMatchObject({ object: "response", status: "completed", model: "gpt-4o", error: null });
    expect(response.usage).toMatchObject({ input_tokens: 8, total_tokens: 8 + (response.usage?.output_tokens ?? 0) });
  });

  test("a list of messages is a conversation, with images", async () => {
    const { output_text } = await client.responses.create({
      model: "demo",
      input: [
        { role: "user", content: "hello" },
        { role: "assistant", content: "ahoy" },
        {
          role: "user",
          content: [
            { type: "input_text", text: "and this?" },
            { type: "input_image", image_url: "https://example.com/cat.png", detail: "auto" },
          ],
        },
      ],
    });
    expect(output_text).toContain(
      "“and this?” (2 earlier messages of context). I was shown an image at https://example.com/cat.png",
    );
  });

  test("a stream has OpenAI's events in order and adds up to the response", async () => {
    const input = { model: "demo", input: "tell me about spain" };
    const events = await collect(await client.responses.create({ ...input, stream: true }));
    expect([...new Set(events.map(({ type }) => type))]).toEqual([
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.delta",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.completed",
    ]);
    expect(events.map((event) => event.sequence_number)).toEqual([...events.keys()]);
    expect(events.flatMap((event) => (event.type === "response.output_text.delta" ? [event.delta] : [])).join("")).toBe(spain);
    const final = await client.responses.stream(input).finalResponse();
    expect(final.output_text).toBe(spain);
    expect(final.usage?.total_tokens).toBe(5 + spainTokens);
  });

  test("max_output_tokens leaves the response incomplete", async () => {
    const response = await client.responses.create({ model: "demo", input: "hello", max_output_tokens: 16 });
    expect(response).toMatchObject({ status: "incomplete", incomplete_details: { reason: "max_output_tokens" } });
  });
});

describe("embeddings", () => {
  const dot = (a: number[] = [], b: number[] = []) => a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0);
  const embed = async (input: string[], dimensions?: number) => {
    const body = { model: "text-embedding-3-small", input, ...(dimensions ? { dimensions } : {}) };
    return (await client.embeddings.create(body)).data.map(({ embedding }) => embedding);
  };

  test("vectors have length one, are the same every time, and near for texts that share words", async () => {
    const texts = ["a cat sat on the mat", "the cat sat", "quarterly revenue grew", "猫", "!?"];
    const [vectors, again] = await Promise.all([embed(texts), embed(texts)]);
    expect(vectors).toEqual(again);
    for (const vector of vectors) {
      expect(vector).toHaveLength(1536);
      expect(dot(vector, vector)).toBeCloseTo(1, 5);
    }
    expect(dot(vectors[0], vectors[1])).toBeGreaterThan(dot(vectors[0], vectors[2]) + 0.3);
  });

  test("base64, which the client asks for by default, and float carry the same numbers", async () => {
    const [packed] = await embed(["hello"], 64);
    const plain = await client.embeddings.create({ model: "m", input: "hello", dimensions: 64, encoding_format: "float" });
    expect(plain.data[0]?.embedding).toEqual(packed);
    expect(packed).toHaveLength(64);
    expect(plain.usage).toEqual({ prompt_tokens: 2, total_tokens: 2 });
  });

  test("an input that is empty, too long or no text is 400, as is an impossible dimension", async () => {
    const create = (body: object) => refusal(client.embeddings.create({ model: "m", input: "x", ...body }));
    expect(await create({ input: "" })).toEqual({ status: 400, code: "invalid_value", param: "input" });
    expect(await create({ input: [] })).toEqual({ status: 400, code: "invalid_value", param: "input" });
    expect(await create({ input: "x".repeat(40_000) })).toMatchObject({ status: 400, code: "context_length_exceeded" });
    expect(await create({ dimensions: 4000 })).toMatchObject({ status: 400, param: "dimensions" });
    expect(await create({ encoding_format: "hex" })).toMatchObject({ status: 400, param: "encoding_format" });
  });
});

describe("moderations", () => {
  test("a harmful text is flagged in its categories, and no other", async () => {
    const { results, model } = await client.moderations.create({ input: "I want to KILL them!" });
    expect(model).toBe("omni-moderation-latest");
    const [result] = results;
    expect(result?.flagged).toBe(true);
    expect(Object.entries(result?.categories ?? {}).flatMap(([name, hit]) => (hit ? [name] : []))).toEqual(["violence"]);
    expect(result?.category_scores.violence).toBeCloseTo(0.9);
    expect(Object.keys(result?.category_scores ?? {})).toEqual(Object.keys(result?.categories ?? {}));
    expect(Object.keys(result?.categories ?? {})).toHaveLength(13);
  });

  test("every text of a list has its result, and parts have one together", async () => {
    const list = await client.moderations.create({ input: ["how do I kill a process?", "you idiot"] });
    expect(list.results.map(({ flagged }) => flagged)).toEqual([false, true]);
    const parts = await client.moderations.create({
      input: [
        { type: "image_url", image_url: { url: "https://example.com/cat.png" } },
        { type: "text", text: "you idiot" },
      ],
    });
    expect(parts.results.map(({ flagged }) => flagged)).toEqual([true]);
  });
});

describe("requests that cannot be answered", () => {
  test("an unknown path is 404 and a wrong method 405, in OpenAI's shape", async () => {
    expect(await refusal(client.files.list())).toEqual({ status: 404, code: "unknown_url", param: null });
    const wrong = await post("/v1/chat/completions", undefined, "GET");
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "POST"]);
    expect(await wrong.json()).toMatchObject({ error: { type: "invalid_request_error", code: "method_not_supported" } });
  });

  test("bad JSON and missing or wrong fields are 400 and name the field", async () => {
    const chat = async (body: string) => {
      const response = await post("/v1/chat/completions", body);
      const { error } = (await response.json()) as { error: { code: string; param: string | null } };
      return [response.status, error.code, error.param];
    };
    expect(await chat("{")).toEqual([400, "invalid_json", null]);
    expect(await chat("[]")).toEqual([400, "invalid_json", null]);
    expect(await chat("{}")).toEqual([400, "missing_required_parameter", "model"]);
    expect(await chat('{"model":"demo"}')).toEqual([400, "missing_required_parameter", "messages"]);
    expect(await chat('{"model":"demo","messages":[]}')).toEqual([400, "invalid_value", "messages"]);
    expect(await chat('{"model":"demo","messages":[null]}')).toEqual([400, "invalid_value", "messages"]);
    expect(await chat('{"model":"demo","messages":[{"role":"user"}],"max_tokens":0}')).toEqual([
      400,
      "invalid_value",
      "max_tokens",
    ]);
  });

  test("a body over 32 MiB is 413", async () => {
    const response = await post("/v1/moderations", Buffer.alloc(32 * 1024 * 1024 + 1, 32));
    expect(response.status).toBe(413);
    expect(await response.json()).toMatchObject({ error: { code: "request_too_large" } });
  });
});

test("close cuts running streams, and a taken port is an error", async () => {
  const other = await startDemo();
  const port = Number(new URL(other.url).port);
  await expect(startDemo({ port })).rejects.toMatchObject({ code: "EADDRINUSE" });
  const stream = await new OpenAI({ baseURL: `${other.url}/v1`, apiKey: "none" }).chat.completions.create({
    model: "demo",
    messages: ask("hello"),
    stream: true,
  });
  const [read] = await Promise.allSettled([collect(stream), other.close()]);
  expect(read.status).toBe("rejected");
});
