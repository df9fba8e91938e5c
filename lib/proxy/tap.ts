import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib";
import { clipBytes, clipText } from "../audit/clip.ts";
import type { Usage } from "../repo/ledger.ts";

/** Bytes decoded from a compressed answer before the rest is left unread. */
const MAX_DECODED = 32 * 1024 * 1024;
/** Bytes that wait for the decoder before the rest is left unread. */
const MAX_QUEUED = 16 * 1024 * 1024;
const USAGE = Buffer.from('"usage"');
/** A usage object of today has some 500 bytes. */
const MAX_USAGE = 4_096;
const DECODERS = new Map<string, () => unknown>([
  ["gzip", createGunzip],
  ["x-gzip", createGunzip],
  ["deflate", createInflate],
  ["br", createBrotliDecompress],
]);

/**
 * Reads a copy of an answer's bytes: the usage it reports, and its beginning for the audit log.
 * Whatever it cannot read it leaves; the bytes themselves pass it by. O(1) memory.
 */
export class Tap {
  readonly isStream: boolean;
  /** The last that was reported. */
  usage: Usage | null = null;
  readonly #contentType: string;
  readonly #isText: boolean;
  readonly #keepBytes: number;
  readonly #finder = new UsageFinder((usage) => {
    this.usage = usage;
  });
  readonly #kept: Buffer[] = [];
  /** Bytes received, and bytes of text read: more of these where they were compressed. */
  #bytes = 0;
  #readBytes = 0;
  #decoder: ReturnType<typeof createGunzip> | null = null;
  #unread = false;

  constructor(contentType: string, encoding: string, keepBytes: number) {
    this.isStream = contentType.startsWith("text/event-stream");
    this.#contentType = contentType;
    this.#isText = isText(contentType);
    this.#keepBytes = this.#isText ? keepBytes : 0;
    if (encoding === "" || encoding === "identity") return;
    const create = DECODERS.get(encoding);
    if (create && this.#isText) this.#startDecoder(create() as ReturnType<typeof createGunzip>);
    else this.#unread = true;
  }

  push(chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.#decoder) this.#decode(this.#decoder, chunk);
    else if (!this.#unread && this.#isText) this.#read(chunk);
  }

  /** Resolves when everything that was pushed is read. */
  async end(): Promise<void> {
    const decoder = this.#decoder;
    if (!decoder || decoder.destroyed) return;
    await new Promise<void>((resolve) => {
      decoder.once("close", resolve);
      decoder.end();
    });
  }

  /** True while `end` has something to wait for. */
  get isDecoding(): boolean {
    return this.#decoder !== null && !this.#decoder.destroyed;
  }
  /** The beginning of a text; of anything else its type and size. */
  text(limit: number): string | null {
    if (limit === 0) return null;
    if (this.#unread || !this.#isText) return this.#bytes === 0 ? null : describeBytes(this.#contentType, this.#bytes);
    return clipText(clipBytes(this.#beginning(), limit), limit);
  }
  /** How many events a stream had, as its beginning tells. */
  estimateEvents(): number {
    const beginning = this.#beginning();
    if (beginning.length === 0) return 0;
    const counted = beginning.toString("latin1").split(/^data:/m).length - 1;
    return Math.round((counted * this.#readBytes) / beginning.length);
  }

  #beginning(): Buffer {
    return this.#kept.length === 1 ? (this.#kept[0] as Buffer) : Buffer.concat(this.#kept);
  }

  #read(chunk: Buffer): void {
    this.#finder.push(chunk);
    const wanted = this.#keepBytes - this.#readBytes;
    this.#readBytes += chunk.length;
    if (wanted > 0) this.#kept.push(chunk.length > wanted ? chunk.subarray(0, wanted) : chunk);
  }

  /** What arrives faster than it is decoded is left unread, not held. */
  #decode(decoder: ReturnType<typeof createGunzip>, chunk: Buffer): void {
    if (decoder.destroyed) return;
    if (decoder.writableLength > MAX_QUEUED) decoder.destroy();
    else decoder.write(chunk);
  }

  #startDecoder(decoder: ReturnType<typeof createGunzip>): void {
    this.#decoder = decoder;
    decoder.on("data", (chunk: Buffer) => {
      if (this.#readBytes > MAX_DECODED) decoder.destroy();
      else this.#read(chunk);
    });
    decoder.on("error", () => decoder.destroy());
  }
}

/**
 * Finds the usage objects in a stream of JSON, however it is cut into chunks. A quote inside a JSON string is escaped, so the
 * bytes `"usage"` followed by a colon are a key.
 */
export class UsageFinder {
  readonly #found: (usage: Usage) => void;
  /** The end of what was read: half a key, or a key whose object is not complete. */
  #carry: Buffer | null = null;

  constructor(found: (usage: Usage) => void) {
    this.#found = found;
  }

  push(chunk: Buffer): void {
    const bytes = this.#carry === null ? chunk : Buffer.concat([this.#carry, chunk]);
    for (let at = bytes.indexOf(USAGE); at >= 0; at = bytes.indexOf(USAGE, at + 1)) {
      const object = objectAfter(bytes, at + USAGE.length);
      if (object === "incomplete" && bytes.length - at < MAX_USAGE) {
        this.#carry = bytes.subarray(at);
        return;
      }
      const usage = object === null ? null : readUsage(object);
      if (usage !== null) this.#found(usage);
    }
    this.#carry = halfKey(bytes);
  }
}

/** The beginning of a key at the very end of the bytes; in most chunks there is none, and nothing need be copied. */
function halfKey(bytes: Buffer): Buffer | null {
  for (let at = Math.max(0, bytes.length - USAGE.length + 1); at < bytes.length; at++) {
    if (bytes[at] === QUOTE && USAGE.compare(bytes, at, bytes.length, 0, bytes.length - at) === 0) return bytes.subarray(at);
  }
  return null;
}

const [QUOTE, COLON, OPEN, CLOSE] = [0x22, 0x3a, 0x7b, 0x7d];

/** The object that is the value of a key which ends at `from`; null when another value follows. A usage object holds no braces in strings. */
function objectAfter(bytes: Buffer, from: number): string | null {
  let start = skipSpace(bytes, from);
  if (start < bytes.length && bytes[start] !== COLON) return null;
  start = skipSpace(bytes, start + 1);
  if (start < bytes.length && bytes[start] !== OPEN) return null;
  let depth = 0;
  for (let i = start; i < bytes.length; i++) {
    if (bytes[i] === OPEN) depth++;
    else if (bytes[i] === CLOSE && --depth === 0) return bytes.toString("latin1", start, i + 1);
  }
  return "incomplete";
}

function skipSpace(bytes: Buffer, from: number): number {
  let i = from;
  while (i < bytes.length && (bytes[i] as number) <= 0x20) i++;
  return i;
}

/** Chat completions and embeddings say prompt and completion tokens; responses, images and realtime input and output tokens. */
function readUsage(json: string): Usage | null {
  try {
    const object = JSON.parse(json) as Record<string, unknown>;
    const prompt = object.prompt_tokens ?? object.input_tokens;
    const completion = object.completion_tokens ?? object.output_tokens ?? 0;
    if (!Number.isSafeInteger(prompt) || !Number.isSafeInteger(completion)) return null;
    return { promptTokens: prompt as number, completionTokens: completion as number, estimated: false };
  } catch {
    return null;
  }
}

/** Whether a body of this type is kept as text. */
export const isText = (contentType: string): boolean =>
  /^(text\/|application\/(json|[a-z0-9.+-]*\+json|x-ndjson|jsonl|x-www-form-urlencoded))/i.test(contentType);

export const describeBytes = (contentType: string, bytes: number): string =>
  `[${contentType.split(";", 1)[0] || "no content type"}, ${bytes} bytes]`;
