import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { UpstreamAnswer } from "./upstream.ts";

/** Why there is no completion, or no whole one. */
export type CompletionCode =
  | "upstream_key_rejected"
  | "upstream_busy"
  | "upstream_refused"
  | "upstream_failed"
  | "upstream_unreachable"
  | "upstream_timeout"
  | "upstream_stalled"
  | "upstream_reset"
  | "upstream_garbled";

export type CompletionDetails = {
  upstreamCode?: string | null;
  upstreamRequestId?: string | null;
  retryAfterSeconds?: number | undefined;
  cause?: unknown;
};

/** Carries nothing of what the upstream wrote but its code and its request id: its messages may quote secrets. */
export class CompletionError extends Error {
  override readonly name = "CompletionError";
  readonly code: CompletionCode;
  /** The upstream's own code, or type, of its error. */
  readonly upstreamCode: string | null;
  /** When the upstream wants to be asked again, if it told. */
  readonly retryAfterSeconds: number | undefined;
  readonly upstreamRequestId: string | null;

  constructor(code: CompletionCode, details: CompletionDetails = {}) {
    const { upstreamCode = null, upstreamRequestId = null, retryAfterSeconds, cause } = details;
    super(`The completion failed: ${code}${upstreamCode === null ? "" : ` (${upstreamCode})`}.`, { cause });
    this.code = code;
    this.upstreamCode = upstreamCode;
    this.upstreamRequestId = upstreamRequestId;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** The refusal was about `stream_options`, which not every server knows. */
export class StreamOptionsRefused extends CompletionError {}

export type Patience = {
  signal: AbortSignal;
  /** From 0 to 1. */
  random(): number;
};

const MAX_RETRIES = 2;
const BACKOFF_MS = 250;
/** Who is told to wait longer than that is told so. */
const LONGEST_WAIT_SECONDS = 5;
/** An upstream that cannot be reached is given up within five seconds, whatever the number of tries. */
const REACH_MS = 4_800;
const REACH_AGAIN_MS = 4_000;
/** How much of a refusal is read for its code, and for how long. */
const REFUSAL_BYTES = 65_536;
const REFUSAL_MS = 1_000;
const PASSING = new Set([408, 409, 429]);
const BROKEN = new Set(["UND_ERR_SOCKET", "UPSTREAM_RESET", "EPIPE"]);

/** An attempt that came to nothing. Where another may help, `reached` tells whether there was an answer. */
type Miss = { failure: CompletionError; again: boolean; reached: boolean };

/**
 * Sends until an answer is a success; its body is unread. At most two retries, and those only of what passes: a connection that
 * failed, 408, 409, 429 and 5xx. Throws a `CompletionError`, or the signal's reason. `send` is told how long it may connect.
 */
export async function persist(
  send: (connectMs: number) => Promise<UpstreamAnswer>,
  { signal, random }: Patience,
): Promise<UpstreamAnswer> {
  let reachedAt = performance.now();
  for (let retries = 0; ; retries++) {
    const outcome = await send(REACH_MS - (performance.now() - reachedAt)).then(judge, missOf);
    signal.throwIfAborted();
    if (!("failure" in outcome)) return outcome;
    const { failure, again, reached } = outcome;
    const askedSeconds = failure.retryAfterSeconds ?? 0;
    if (!again || retries === MAX_RETRIES || askedSeconds > LONGEST_WAIT_SECONDS) throw failure;
    const waitMs = Math.max(askedSeconds * 1_000, BACKOFF_MS * 2 ** retries * (1 + random()));
    if (reached) reachedAt = performance.now() + waitMs;
    else if (performance.now() - reachedAt + waitMs > REACH_AGAIN_MS) throw failure;
    await sleep(waitMs, undefined, { signal });
  }
}

/** What the transport's error is called here; null where it is none. `answered`: the headers of an answer had come. */
export function transportFailure(error: unknown, answered: boolean): CompletionError | null {
  if (!(error instanceof Error)) return null;
  // It holds the bytes that the parser stumbled over, so it is no cause to pass on.
  if (error.name === "HTTPParserError") return new CompletionError("upstream_garbled");
  const code = "code" in error ? error.code : undefined;
  if (typeof code !== "string" || code === "UND_ERR_INVALID_ARG") return null;
  const failed = (as: CompletionCode) => new CompletionError(as, { cause: error });
  if (code === "UND_ERR_HEADERS_TIMEOUT") return failed("upstream_timeout");
  if (code === "UND_ERR_BODY_TIMEOUT") return failed("upstream_stalled");
  if (code === "UND_ERR_HEADERS_OVERFLOW") return failed("upstream_garbled");
  return failed(answered || BROKEN.has(code) ? "upstream_reset" : "upstream_unreachable");
}

/** The upstream's own code, or else the type, of an error that it reported. */
export function codeIn(error: unknown): string | null {
  const { code, type, error: inner } = (typeof error === "object" && error !== null ? error : {}) as Record<string, unknown>;
  const named = [code, type].find((it): it is string => typeof it === "string" && /^[a-z0-9_.-]{1,64}$/i.test(it));
  return named ?? (inner === undefined ? null : codeIn(inner));
}

export const requestIdOf = ({ headers }: UpstreamAnswer): string | null => text(headers["x-request-id"]) ?? null;

function missOf(error: unknown): Miss {
  const failure = transportFailure(error, false);
  if (failure === null) throw error;
  return { failure, again: failure.code === "upstream_unreachable" || failure.code === "upstream_reset", reached: false };
}

async function judge(answer: UpstreamAnswer): Promise<UpstreamAnswer | Miss> {
  const { status, headers, body } = answer;
  if (status >= 200 && status < 300) return answer;
  const upstreamRequestId = requestIdOf(answer);
  if (status === 401) {
    body.destroy();
    return { failure: new CompletionError("upstream_key_rejected", { upstreamRequestId }), again: false, reached: true };
  }
  const said = await beginningOf(body);
  const upstreamCode = codeIn(parsed(said));
  const details = { upstreamCode, upstreamRequestId, retryAfterSeconds: retryAfterSeconds(headers) };
  const refused = (status === 400 || status === 422) && said.includes("stream_options");
  const failure = refused ? new StreamOptionsRefused("upstream_refused", details) : new CompletionError(codeFor(status), details);
  // A quota that is used up does not come back in a second, though it has the status of a rate limit.
  const lasting = upstreamCode === "insufficient_quota" || headers["x-should-retry"] === "false";
  return { failure, again: (PASSING.has(status) || status >= 500) && !lasting, reached: true };
}

function codeFor(status: number): CompletionCode {
  if (status === 429) return "upstream_busy";
  if (status >= 500) return "upstream_failed";
  return status >= 400 ? "upstream_refused" : "upstream_garbled";
}

/** A body that breaks off, or does not end, is what has come of it. Read to its end it leaves the connection to the next call. */
async function beginningOf(body: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  const enough = setTimeout(() => body.destroy(), REFUSAL_MS);
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > REFUSAL_BYTES) break;
    }
  } catch {
    // Whatever ended it, the answer's status is known, and a call that was aborted is found out next.
  } finally {
    clearTimeout(enough);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** The value of a JSON document, undefined where the text is none. */
export function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

/** `retry-after-ms`, or `Retry-After` in either of its forms: a date is read against the answer's own clock. */
function retryAfterSeconds(headers: UpstreamAnswer["headers"]): number | undefined {
  const ms = Number.parseFloat(text(headers["retry-after-ms"]) ?? "");
  if (ms >= 0) return ms / 1_000;
  const value = text(headers["retry-after"])?.trim() ?? "";
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value);
  const until = Date.parse(value);
  if (Number.isNaN(until)) return undefined;
  const sent = Date.parse(text(headers.date) ?? "");
  const now = Number.isNaN(sent) ? performance.timeOrigin + performance.now() : sent;
  return Math.max(0, until - now) / 1_000;
}

const text = (value: string | string[] | undefined): string | undefined => (Array.isArray(value) ? value[0] : value);
