import type { Readable } from "node:stream";
import type OpenAI from "openai";
import { post, withClient } from "./client.ts";
import { EventStream, Garbled } from "./event-stream.ts";
import { CompletionError, codeIn, type Patience, parsed, requestIdOf, StreamOptionsRefused, transportFailure } from "./retry.ts";
import type { Upstream } from "./upstream.ts";

export type CompletionMessage = { role: "system" | "user" | "assistant"; content: string | unknown[]; name?: string };

export type CompletionRequest = Patience & {
  model: string;
  messages: readonly CompletionMessage[];
  /** What else the upstream takes (`temperature`, `max_tokens`, …), passed on as it is. */
  options?: Record<string, unknown>;
  /** More request headers, none of them a credential. */
  headers?: Record<string, string>;
};

export type CompletionEnd = {
  /** As the upstream named it. */
  model: string | null;
  finishReason: string | null;
  /** Null where the upstream did not report it. */
  usage: { promptTokens: number; completionTokens: number; estimated: boolean } | null;
  upstreamRequestId: string | null;
};

/** How long the end of an answer may take after its last event; its connection serves the next call then. */
const LINGER_MS = 100;
const DONE = "[DONE]";

/** Upstreams that know nothing of `stream_options`, and so report no usage. */
const withoutUsage = new WeakSet<Upstream>();

/**
 * Streams a chat completion: yields its text as it comes, never an empty piece, always well-formed and without NUL; returns what
 * else is known of it. Slow consumers slow the upstream down. Throws a `CompletionError`, or the signal's reason; in both cases,
 * and when the consumer leaves early, the upstream is aborted at once.
 */
export async function* complete(upstream: Upstream, request: CompletionRequest): AsyncGenerator<string, CompletionEnd, void> {
  request.signal.throwIfAborted();
  const reply = new Reply();
  try {
    const chunks = await open(upstream, request, reply);
    for await (const chunk of chunks) {
      const text = reply.read(chunk);
      if (text === "") continue;
      yield text;
      request.signal.throwIfAborted();
    }
  } catch (error) {
    const failure = request.signal.aborted ? request.signal.reason : reply.failureOf(error);
    if (failure !== null) throw failure;
  }
  if (!reply.isWhole) throw request.signal.aborted ? request.signal.reason : reply.failed("upstream_reset");
  const last = reply.last();
  if (last !== "") yield last;
  return reply.end();
}

async function open(upstream: Upstream, request: CompletionRequest, reply: Reply): Promise<AsyncIterable<unknown>> {
  const { model, options } = request;
  const messages = request.messages as OpenAI.ChatCompletionMessageParam[];
  const create = (more: object) =>
    withClient(
      (target, body) => send(upstream, target, body, request, reply),
      (client) => client.chat.completions.create({ ...options, model, messages, ...more, stream: true }),
    );
  if (withoutUsage.has(upstream)) return create({ stream_options: undefined });
  try {
    return await create({ stream_options: { include_usage: true } });
  } catch (error) {
    if (!(error instanceof StreamOptionsRefused)) throw error;
    withoutUsage.add(upstream);
    return create({ stream_options: undefined });
  }
}

/** The answer that the library reads. */
async function send(upstream: Upstream, target: string, body: string, request: CompletionRequest, reply: Reply) {
  const answer = await post(upstream, target, body, request, { accept: "text/event-stream", ...request.headers });
  reply.requestId = requestIdOf(answer);
  return { ok: true, status: answer.status, url: "", headers: new Map<string, string>(), body: wholeEvents(answer.body, reply) };
}

/** The stream in whole events, each its data alone: what the library makes of it then does not depend on how it was cut. */
async function* wholeEvents(body: Readable, reply: Reply): AsyncGenerator<string> {
  const stream = new EventStream();
  let linger: NodeJS.Timeout | undefined;
  try {
    for await (const chunk of body as AsyncIterable<Uint8Array>) {
      if (reply.isDone) continue;
      for (const { name, data } of stream.push(chunk)) {
        if (name === "error") throw reply.failed("upstream_failed", codeIn(parsed(data)));
        if (data.startsWith(DONE)) {
          reply.isDone = true;
          linger = setTimeout(() => body.destroy(), LINGER_MS);
          break;
        }
        yield `data: ${data.replaceAll("\n", "\ndata: ")}\n\n`;
      }
    }
    if (!reply.isDone) reply.isDone = stream.rest().startsWith(DONE);
  } catch (error) {
    if (!reply.isDone) throw error;
  } finally {
    clearTimeout(linger);
  }
}

/** What has been heard of one completion. */
class Reply {
  requestId: string | null = null;
  /** The stream has said that it is over. */
  isDone = false;
  #model: string | null = null;
  #finishReason: string | null = null;
  #usage: CompletionEnd["usage"] = null;
  /** Half a surrogate pair, whose other half comes with the next piece. */
  #half = "";

  get isWhole(): boolean {
    return this.isDone || this.#finishReason !== null;
  }

  /** The text of a chunk, which may be empty. */
  read(chunk: unknown): string {
    const { choices, model, usage } = fields(chunk);
    const reported = readUsage(usage);
    if (!Array.isArray(choices) && (choices !== undefined || reported === null)) throw new Garbled("no choices");
    if (typeof model === "string" && model !== "") this.#model ??= model;
    this.#usage = reported ?? this.#usage;
    const first = (choices ?? []).map(fields).find(({ index = 0 }) => index === 0);
    if (first === undefined) return "";
    if (typeof first.finish_reason === "string") this.#finishReason = first.finish_reason;
    const { content, refusal } = fields(first.delta ?? {});
    const text = [this.#half, content, refusal].filter((it) => typeof it === "string").join("");
    this.#half = /[\uD800-\uDBFF]$/.exec(text)?.[0] ?? "";
    return storable(text.slice(0, text.length - this.#half.length));
  }

  /** The half of a pair that never became whole. */
  last(): string {
    return storable(this.#half);
  }

  end(): CompletionEnd {
    return {
      model: this.#model,
      finishReason: this.#finishReason,
      usage: this.#usage,
      upstreamRequestId: this.requestId,
    };
  }

  failed(code: CompletionError["code"], upstreamCode: string | null = null, cause?: unknown): CompletionError {
    return new CompletionError(code, { upstreamCode, upstreamRequestId: this.requestId, cause });
  }

  /** What to throw for an error; null where it came after all that matters. Errors of ours stay what they are. */
  failureOf(error: unknown): unknown {
    if (error instanceof CompletionError) return error;
    // The library's words for an error event quote it, and the parser's its bytes.
    if (error instanceof SyntaxError || error instanceof Garbled) return this.failed("upstream_garbled");
    if (error instanceof Error && "error" in error) return this.failed("upstream_failed", codeIn(error.error));
    const failure = transportFailure(error, true);
    if (failure === null) return error;
    return this.isWhole ? null : this.failed(failure.code, null, error);
  }
}

/** An object's fields; anything else is not the JSON of a completion. */
function fields(value: unknown): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new Garbled("no object");
}

function readUsage(value: unknown): CompletionEnd["usage"] {
  if (typeof value !== "object" || value === null) return null;
  const { prompt_tokens: promptTokens, completion_tokens: completionTokens } = value as Record<string, unknown>;
  if (!isCount(promptTokens) || !isCount(completionTokens)) return null;
  return { promptTokens, completionTokens, estimated: false };
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** No store keeps NUL or half a surrogate pair as they are. */
const storable = (text: string): string => text.toWellFormed().replaceAll("\0", "\uFFFD");
