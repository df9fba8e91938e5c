import { randomUUID } from "node:crypto";
import { chatTurns, isObject, type Json, optionalCount, requiredText, responseTurns, type Turn } from "./demo-input.ts";

/** What an endpoint gives back: one JSON document, or server-sent events to be paced out one by one. */
export type Answer = { json: unknown } | { events: Iterable<string> };

const quotedCharacters = 200;
const describedImages = 4;

/** The whole of the model: the same conversation always gets the same words. */
export function reply(turns: Turn[]): string {
  const question = turns.findLast(({ role }) => role === "user") ?? turns.at(-1);
  const system = turns.findLast(isSystem);
  const earlier = turns.filter((turn) => turn !== question && !isSystem(turn)).length;
  const images = turns.flatMap((turn) => turn.images).slice(-describedImages);

  const context = [
    ...(earlier > 0 ? [`${earlier} earlier ${earlier === 1 ? "message" : "messages"} of context`] : []),
    ...(system?.text ? [`system prompt ${quote(system.text)}`] : []),
  ];
  const sentences = [
    "This is proxy-gpt's demo model.",
    `You asked: ${quote(question?.text ?? "")}${context.length > 0 ? ` (${context.join(", ")})` : ""}.`,
    ...(images.length > 0 ? [`I was shown ${images.map(describeImage).join("; ")}.`] : []),
    "Set API_KEY to an OpenAI key and start again to get real answers.",
  ];
  return sentences.join(" ");
}

/**
 * Tokens of a text, estimated: a token is about four characters of English, OpenAI's own rule of thumb
 * (help.openai.com, "What are tokens and how to count them?"). Good for showing usage, not for billing.
 */
export function countTokens(text: string): number {
  return Math.ceil(text.length / 4);
}

/** `POST /v1/chat/completions`. */
export function completeChat(body: Json): Answer {
  const model = requiredText(body, "model");
  const turns = chatTurns(body);
  const limit = optionalCount(body, "max_completion_tokens") ?? optionalCount(body, "max_tokens");
  const { text, cut } = limitTo(reply(turns), limit);
  const finish = cut ? "length" : "stop";
  const [prompt, completion] = [promptTokens(turns), countTokens(text)];
  const usage = {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 },
  };
  const envelope = { id: newId("chatcmpl-"), created: nowSeconds(), model, service_tier: "default" };

  if (body.stream === true) {
    const withUsage = isObject(body.stream_options) && body.stream_options.include_usage === true;
    const chunk = { ...envelope, object: "chat.completion.chunk" };
    return { events: chatEvents(chunk, text, finish, withUsage ? usage : null) };
  }
  const message = { role: "assistant", content: text, refusal: null, annotations: [] };
  const choice = { index: 0, message, logprobs: null, finish_reason: finish };
  return { json: { ...envelope, object: "chat.completion", choices: [choice], usage } };
}

/** With usage asked for, every chunk has `usage: null` and one more, without choices, has the numbers. */
function* chatEvents(envelope: Json, text: string, finish: string, usage: Json | null): Iterable<string> {
  const pending = usage ? { usage: null } : {};
  const choose = (delta: Json, finish_reason: string | null = null) =>
    event({ ...envelope, choices: [{ index: 0, delta, logprobs: null, finish_reason }], ...pending });

  yield choose({ role: "assistant", content: "", refusal: null });
  for (const word of words(text)) yield choose({ content: word });
  yield choose({}, finish);
  if (usage) yield event({ ...envelope, choices: [], usage });
  yield "data: [DONE]\n\n";
}

/** `POST /v1/responses`. Nothing is kept: `previous_response_id` is echoed and otherwise ignored. */
export function respond(body: Json): Answer {
  const model = requiredText(body, "model");
  const turns = responseTurns(body);
  const limit = optionalCount(body, "max_output_tokens");
  const { text, cut } = limitTo(reply(turns), limit);
  const [input, output] = [promptTokens(turns), countTokens(text)];
  const usage = {
    input_tokens: input,
    input_tokens_details: { cached_tokens: 0 },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: input + output,
  };
  const status = cut ? "incomplete" : "completed";
  const item = { id: newId("msg_"), type: "message", role: "assistant", status: "in_progress", content: [] as Json[] };
  const started = {
    id: newId("resp_"),
    object: "response",
    created_at: nowSeconds(),
    status: "in_progress",
    error: null,
    incomplete_details: null as Json | null,
    instructions: body.instructions ?? null,
    max_output_tokens: limit,
    metadata: body.metadata ?? {},
    model,
    output: [] as Json[],
    parallel_tool_calls: true,
    previous_response_id: body.previous_response_id ?? null,
    store: false,
    temperature: 1,
    text: { format: { type: "text" } },
    tool_choice: "auto",
    tools: body.tools ?? [],
    top_p: 1,
    truncation: "disabled",
    usage: null as Json | null,
  };
  const finished = {
    ...started,
    status,
    incomplete_details: cut ? { reason: "max_output_tokens" } : null,
    output: [{ ...item, status, content: [textPart(text)] }],
    usage,
  };
  return body.stream === true ? { events: responseEvents(started, item, text, finished) } : { json: finished };
}

function* responseEvents(started: Json, item: Json, text: string, finished: Json & { output: Json[] }): Iterable<string> {
  let sequence = 0;
  const send = (type: string, fields: Json) => event({ type, sequence_number: sequence++, ...fields }, type);
  const at = { item_id: item.id, output_index: 0, content_index: 0 };

  yield send("response.created", { response: started });
  yield send("response.in_progress", { response: started });
  yield send("response.output_item.added", { output_index: 0, item });
  yield send("response.content_part.added", { ...at, part: textPart("") });
  for (const word of words(text)) yield send("response.output_text.delta", { ...at, delta: word, logprobs: [] });
  yield send("response.output_text.done", { ...at, text, logprobs: [] });
  yield send("response.content_part.done", { ...at, part: textPart(text) });
  yield send("response.output_item.done", { output_index: 0, item: finished.output[0] });
  yield send(`response.${finished.status}`, { response: finished });
}

function textPart(text: string): Json {
  return { type: "output_text", text, annotations: [], logprobs: [] };
}

/** A web image by its address and file name, an inline one by its type and decoded size. */
function describeImage(address: string): string {
  if (/^data:/i.test(address)) return describeInlineImage(address);
  const name = URL.canParse(address) ? new URL(address).pathname.split("/").at(-1) : "";
  return `an image at ${shorten(address)}${name ? `, named ${shorten(name)}` : ""}`;
}

function describeInlineImage(address: string): string {
  const comma = address.includes(",") ? address.indexOf(",") : address.length;
  const [type, ...parameters] = address.slice("data:".length, comma).split(";");
  const bytes = Buffer.byteLength(address.slice(comma + 1), parameters.includes("base64") ? "base64" : "utf8");
  return `an inline image of type ${type ? shorten(type) : "text/plain"} and ${bytes} bytes`;
}

function isSystem({ role }: Turn): boolean {
  return role === "system" || role === "developer";
}

function quote(text: string): string {
  return `“${shorten(text.replace(/\s+/g, " ").trim())}”`;
}

/** Cuts between characters, never inside a surrogate pair. */
function shorten(text: string): string {
  const characters = [...text.slice(0, 2 * quotedCharacters + 2)];
  return characters.length > quotedCharacters ? `${characters.slice(0, quotedCharacters).join("")}…` : text;
}

/** `null` is no limit. The cut goes by the estimate of `countTokens` and never halves a surrogate pair. */
function limitTo(text: string, maxTokens: number | null): { text: string; cut: boolean } {
  if (maxTokens === null || countTokens(text) <= maxTokens) return { text, cut: false };
  return { text: text.slice(0, 4 * maxTokens).replace(/[\uD800-\uDBFF]$/, ""), cut: true };
}

/** An image counts 85 tokens, what OpenAI charges for one in low detail. */
function promptTokens(turns: Turn[]): number {
  return turns.reduce((sum, { text, images }) => sum + countTokens(text) + 85 * images.length, 0);
}

function words(text: string): string[] {
  return text.match(/\S+\s*/g) ?? [];
}

function event(data: Json, name?: string): string {
  return `${name ? `event: ${name}\n` : ""}data: ${JSON.stringify(data)}\n\n`;
}

function newId(prefix: string): string {
  return prefix + randomUUID().replaceAll("-", "");
}

function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}
