import type { IncomingMessage } from "node:http";
import { clipText } from "../audit/clip.ts";
import type { Usage } from "../repo/ledger.ts";
import { describeBytes, isText, type Tap } from "./tap.ts";
import type { Upload } from "./upload.ts";

/** A token has about four characters of English; that is how usage is estimated where the upstream does not report it. */
const BYTES_PER_TOKEN = 4;
/** A model is named near the beginning of a body. */
export const MODEL_SEARCH_BYTES = 4_096;
/** The longest name of a model that is kept. */
const MODEL_BYTES = 128;
const GENERATION = /^\/v1\/(chat\/completions|completions|responses|messages)$/;

/** How much of a body is looked at: one byte more than is kept of it tells whether a character ends there. */
export const beginningBytes = (keptBytes: number): number => Math.max(keptBytes + 1, MODEL_SEARCH_BYTES);

/** What a request says of itself: the model it names and the body to be kept. */
export function requestAccount(req: IncomingMessage, upload: Upload, bodyBytes: number) {
  const type = req.headers["content-type"] ?? "";
  if (upload.size === 0) return { model: modelInQuery(req.url ?? ""), body: null };
  const beginning = upload.kept.length === 1 ? (upload.kept[0] as Buffer) : Buffer.concat(upload.kept);
  const text = beginning.toString("utf8");
  const readable = isText(type) && req.headers["content-encoding"] === undefined;
  const body = bodyBytes === 0 ? null : readable ? clipText(text, bodyBytes) : describeBytes(type, upload.size);
  return { model: modelInBody(text), body };
}

/** The usage that an answer reported. A stream that reported none is estimated and marked so: one token an event, but for two. */
export function usageOf(path: string, upload: Upload, tap: Tap | null): Usage | null {
  if (!tap) return null;
  if (tap.usage) return tap.usage;
  if (!tap.isStream || !GENERATION.test(path)) return null;
  const completionTokens = Math.max(0, tap.estimateEvents() - 2);
  return { promptTokens: Math.ceil(upload.size / BYTES_PER_TOKEN), completionTokens, estimated: true };
}

/** The first `model` of a JSON body (a quote inside a string is escaped, so it is a key), or a multipart form's field. */
export function modelInBody(text: string): string | null {
  const json = /"model"\s*:\s*"((?:[^"\\]|\\.){1,128})"/.exec(text)?.[1];
  const model = json ?? /name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,128})\r\n/.exec(text)?.[1];
  return model === undefined ? null : clipText(model, MODEL_BYTES);
}

/** The `model` of a query, as the Realtime API takes it. */
export function modelInQuery(target: string): string | null {
  const encoded = /[?&]model=([^&]{1,256})/.exec(target)?.[1];
  if (encoded === undefined) return null;
  try {
    return clipText(decodeURIComponent(encoded), MODEL_BYTES);
  } catch {
    return null;
  }
}
