import type { ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import type { Handler } from "./upstream.ts";
import { chatUsage, sse } from "./upstream-answers.ts";

const eventStream = "text/event-stream; charset=utf-8";

/** A streamed completion of `chunks` words, without its end: `word-0 word-1 …`. */
function* words(chunks: number): Iterable<string> {
  yield chunk({ role: "assistant", content: "" });
  for (let at = 0; at < chunks; at++) yield chunk({ content: `word-${at} ` });
}

/** The same with its end, and the chunk with the usage where there is one. */
function* completeStream(chunks: number, usage: false | object): Iterable<string> {
  yield* words(chunks);
  yield chunk({}, "stop");
  if (usage) yield sse({ ...envelope, choices: [], usage });
  yield "data: [DONE]\n\n";
}

function chunk(delta: object, finish_reason: string | null = null): string {
  return sse({ ...envelope, choices: [{ index: 0, delta, finish_reason }] });
}

const envelope = { id: "chatcmpl-1", object: "chat.completion.chunk", created: 1_700_000_000, model: "gpt-4o" };

/** A stream no parser likes, with one good word, "fine", in the middle and a proper end. */
export const malformedBytes = Buffer.concat([
  Buffer.from(": a comment\n\ndata\n\nno colon at all\n\ndata: {not json\n\ndata: 42\n\ndata: null\n\nevent: \r\rdata:\r\n\r\n"),
  Buffer.from([0x64, 0x61, 0x74, 0x61, 0x3a, 0x20, 0xff, 0xfe, 0xc3, 0x0a, 0x0a]),
  Buffer.from('data: {"choices":{},"usage":"many"}\n\ndata: {"choices":[null],\ndata: "usage":null}\n\n'),
  Buffer.from(`${chunk({ content: "fine" })}retry: soon\nid: \0\n${chunk({}, "stop")}data: [DONE]\n\n`),
]);

/** Handlers for `upstream.next` and `upstream.when`. All but `hang` and `resetBeforeHeaders` read the whole request first. */
export const faults = {
  /** Takes the request and never answers. */
  hang: (): Handler => () => {},

  /** Sends that many words of a stream (0: only the headers), or these bytes, then nothing more. */
  stallAfter:
    (chunksOrBytes: number | string | Buffer): Handler =>
    async (_, res, recorded) => {
      await recorded.complete;
      await sendPart(res, chunksOrBytes);
    },

  /** Resets the connection (RST) instead of answering. */
  resetBeforeHeaders: (): Handler => (req) => void req.socket.resetAndDestroy(),

  /** Cuts a stream after that many words: with an RST, or with a FIN that leaves the chunked coding unfinished. */
  resetMidStream:
    (chunksOrBytes: number | string | Buffer = 3, how: "rst" | "fin" = "rst"): Handler =>
    async (req, res, recorded) => {
      await recorded.complete;
      await sendPart(res, chunksOrBytes);
      if (how === "rst") req.socket.resetAndDestroy();
      else req.socket.destroy();
    },

  /** A stream that ends cleanly in HTTP and has neither a finish reason nor `[DONE]`. */
  endWithoutTerminal:
    (chunks = 3): Handler =>
    async (_, res, recorded) => {
      await recorded.complete;
      await sendPart(res, chunks);
      res.end();
    },

  /** Every byte in a write, and a chunk of the chunked coding, of its own. */
  oneByteChunks: (bytes: Buffer | string, contentType = eventStream): Handler => sendSlices(bytes, [1], contentType),

  /** The bytes cut into these sizes, which repeat when they do not reach to the end. */
  slices: (bytes: Buffer | string, sizes: number[], contentType = eventStream): Handler => sendSlices(bytes, sizes, contentType),

  redirect: (location: string, code = 302): Handler => faults.status(code, "", { location }),

  /** The document compressed, whether or not the client asked for that. */
  gzip: (json: unknown): Handler => {
    const headers = { "content-type": "application/json", "content-encoding": "gzip" };
    return faults.status(200, gzipSync(JSON.stringify(json)), headers);
  },

  malformedSse: (): Handler => sendSlices(malformedBytes, [malformedBytes.length], eventStream),

  /** Any answer: text and bytes go out as they are, anything else as JSON. */
  status:
    (code: number, body: unknown = "", headers: Record<string, string | string[]> = {}): Handler =>
    async (_, res, recorded) => {
      await recorded.complete;
      const raw = typeof body === "string" || Buffer.isBuffer(body);
      const bytes = raw ? body : JSON.stringify(body);
      const length = Buffer.byteLength(bytes);
      res.writeHead(code, { "content-type": raw ? "text/plain" : "application/json", "content-length": length, ...headers });
      res.end(bytes);
    },

  /** A healthy stream of `chunks` words, `gapMs` apart, that stops when the client goes away. */
  stream:
    ({ chunks = 1000, gapMs = 10, usage = false }: { chunks?: number; gapMs?: number; usage?: boolean | object } = {}): Handler =>
    async (_, res, recorded) => {
      await recorded.complete;
      res.writeHead(200, { "content-type": eventStream });
      const events = paced(completeStream(chunks, usage === true ? chatUsage : usage), gapMs);
      await pipeline(Readable.from(events), res);
    },
};

async function* paced(events: Iterable<string>, gapMs: number): AsyncIterable<string> {
  for (const event of events) {
    yield event;
    if (gapMs > 0) await sleep(gapMs);
  }
}

async function sendPart(res: ServerResponse, chunksOrBytes: number | string | Buffer): Promise<void> {
  res.writeHead(200, { "content-type": eventStream });
  res.flushHeaders();
  if (chunksOrBytes === 0) return;
  await write(res, typeof chunksOrBytes === "number" ? [...words(chunksOrBytes)].join("") : chunksOrBytes);
}

function sendSlices(bytes: Buffer | string, sizes: number[], contentType: string): Handler {
  if (!sizes.some((size) => size > 0)) throw new RangeError("slices need a size above zero");
  return async (_, res, recorded) => {
    await recorded.complete;
    res.writeHead(200, { "content-type": contentType });
    let rest = Buffer.from(bytes);
    for (let at = 0; rest.length > 0; at++) {
      const size = sizes[at % sizes.length] ?? 1;
      if (size > 0) await write(res, rest.subarray(0, size));
      rest = rest.subarray(size);
    }
    res.end();
  };
}

/** Handed to the kernel before it resolves, and the reader has had a turn, so writes arrive one by one. */
async function write(res: ServerResponse, bytes: Buffer | string): Promise<void> {
  await new Promise<void>((resolve, reject) => res.write(bytes, (error) => (error ? reject(error) : resolve())));
  await turn();
}
