import type { IncomingMessage } from "node:http";
import type * as z from "zod";
import { ApiError } from "./error.ts";
import { belongsInBody } from "./secrets.ts";

const MAX_DEPTH = 32;
const MAX_KEYS = 1_000;
const FORBIDDEN_KEYS = new Set(["__proto__", "constructor", "prototype"]);

const FLAGS = new Map([
  ["true", true],
  ["1", true],
  ["false", false],
  ["0", false],
]);

type Fields = Record<string, unknown>;
/** A field of a form or query, with every value that was given for it. */
type TextFields = Map<string, string[]>;

/** How long a body of ours may take; the listener sets no limit, because an upload to `/v1` may take as long as it takes. */
export const BODY_WITHIN_MS = 30_000;

/**
 * Reads a body up to the limit; under the framework it was read before us. Throws `too_large`, `unsupported_media_type`, and
 * `client_closed` where it did not come whole in time: the connection of a client that dawdles is closed.
 */
export async function readBody(
  req: IncomingMessage & { rawBody?: Buffer },
  limit: number,
  withinMs = BODY_WITHIN_MS,
): Promise<Buffer> {
  const encoding = req.headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity") throw new ApiError("unsupported_media_type");
  const declared = Number(req.headers["content-length"] ?? 0);
  if (declared > limit || (req.rawBody?.length ?? 0) > limit) throw new ApiError("too_large");
  if (req.rawBody) return req.rawBody;
  const chunks: Buffer[] = [];
  let size = 0;
  const late = setTimeout(() => req.destroy(), withinMs);
  try {
    for await (const chunk of req as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) throw new ApiError("too_large");
      chunks.push(chunk);
    }
  } catch (error) {
    throw error instanceof ApiError ? error : new ApiError("client_closed", { cause: error });
  } finally {
    clearTimeout(late);
  }
  return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size);
}

/** The media type of a body that we read: JSON or a form, in UTF-8. Throws `unsupported_media_type`. */
export function bodyType(req: IncomingMessage): "json" | "form" {
  const given = rawValues(req, "content-type");
  const [type = "", ...parameters] = (given[0] ?? "").split(";").map((part) => part.trim().toLowerCase());
  const foreign = parameters.some((parameter) => /^charset\s*=/.test(parameter) && !/^charset="?utf-?8"?$/.test(parameter));
  if (given.length > 1 || foreign) throw new ApiError("unsupported_media_type");
  if (type === "application/json") return "json";
  if (type === "application/x-www-form-urlencoded") return "form";
  throw new ApiError("unsupported_media_type");
}

/**
 * The input of an endpoint from the parameters of its path, the query and the body. JSON is taken by its own types; the text of forms and queries is
 * converted to what the field is. Throws `bad_json`, `bad_form`, `invalid_input`.
 */
export function parseInput<S extends z.ZodObject>(
  schema: S,
  parameters: Record<string, string>,
  query: string,
  body: Buffer,
  type: "json" | "form",
  mostKeys = MAX_KEYS,
): z.output<S> {
  const fields: Fields = fromText(schema, parseForm(query));
  merge(fields, parameters);
  const exposed = Object.keys(fields).find((name) => Object.hasOwn(schema.shape, name) && belongsInBody(name));
  if (exposed)
    throw new ApiError("invalid_input", { message: `${exposed} belongs into the body, not the query.`, param: exposed });
  if (body.length > 0) {
    const text = decode(body, type);
    // Documented `curl -d '{…}'` lines send JSON under a form's type.
    const json = type === "json" || text.trimStart().startsWith("{");
    merge(fields, json ? parseJson(text, mostKeys) : fromText(schema, parseForm(text)));
  }
  const parsed = schema.safeParse(fields);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const param = issue?.path.join(".") || undefined;
  throw new ApiError("invalid_input", { message: explain(issue, param), ...(param && { param }) });
}

/** A JSON object without anything that a store, a log or another parser would read differently. Throws `bad_json`. */
export function parseJson(text: string, mostKeys = MAX_KEYS): Fields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ApiError("bad_json");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ApiError("bad_json", { message: "The body must be a JSON object." });
  }
  refuseDoubleKeys(text);
  inspect(value, 1, { left: mostKeys, most: mostKeys });
  return value as Fields;
}

/** The fields of a form or query, percent-decoded strictly. Throws `bad_form`. */
export function parseForm(text: string): TextFields {
  const fields: TextFields = new Map();
  if (text === "") return fields;
  const pairs = text.split("&");
  if (pairs.length > MAX_KEYS) throw new ApiError("bad_form", { message: `A form has at most ${MAX_KEYS} fields.` });
  for (const pair of pairs) {
    if (pair === "") continue;
    const equals = pair.indexOf("=");
    const name = percentDecode(equals < 0 ? pair : pair.slice(0, equals));
    const value = equals < 0 ? "" : percentDecode(pair.slice(equals + 1));
    if (FORBIDDEN_KEYS.has(name)) throw new ApiError("bad_form");
    fields.set(name, [...(fields.get(name) ?? []), value]);
  }
  return fields;
}

function percentDecode(text: string): string {
  let decoded: string;
  try {
    decoded = decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    throw new ApiError("bad_form");
  }
  if (decoded.includes("\0") || !decoded.isWellFormed()) throw new ApiError("bad_form");
  return decoded;
}

function decode(body: Buffer, type: "json" | "form"): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body);
  } catch {
    throw new ApiError(type === "json" ? "bad_json" : "bad_form", { message: "The body is not valid UTF-8." });
  }
}

/** Of an object that has a key twice, readers differ in which they take. The text is valid JSON. */
function refuseDoubleKeys(text: string): void {
  const open: Set<string>[] = [];
  for (const [token, key, colon] of text.matchAll(/("[^"\\]*(?:\\.[^"\\]*)*")\s*(:)?|[{}[\]]/g)) {
    if (token === "{" || token === "[") open.push(new Set());
    else if (token === "}" || token === "]") open.pop();
    else if (colon) {
      const name = JSON.parse(key as string);
      if (open.at(-1)?.has(name)) throw new ApiError("bad_json", { message: "A key is given twice in one object." });
      open.at(-1)?.add(name);
    }
  }
}

function inspect(value: unknown, depth: number, keys: { left: number; most: number }): void {
  if (typeof value === "string" && (value.includes("\0") || !value.isWellFormed())) {
    throw new ApiError("bad_json", { message: "Text must not hold NUL or half of a surrogate pair." });
  }
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new ApiError("bad_json", { message: "A number is too large." });
  }
  if (typeof value !== "object" || value === null) return;
  if (depth > MAX_DEPTH) throw new ApiError("bad_json", { message: `JSON is read up to ${MAX_DEPTH} levels deep.` });
  for (const [key, member] of Object.entries(value)) {
    if (--keys.left < 0) throw new ApiError("bad_json", { message: `JSON is read up to ${keys.most} values.` });
    if (FORBIDDEN_KEYS.has(key)) throw new ApiError("bad_json", { message: `The key ${key} is not accepted.` });
    inspect(key, depth, keys);
    inspect(member, depth + 1, keys);
  }
}

/** Text for each field of the schema, as the type that the field has. A field given twice is refused unless it is a list. */
function fromText(schema: z.ZodObject, texts: TextFields): Fields {
  const fields: Fields = {};
  for (const [name, values] of texts) {
    const type = Object.hasOwn(schema.shape, name) ? fieldType(schema.shape[name]) : undefined;
    const [text = "", ...more] = values;
    if (type === "array") fields[name] = values;
    else if (more.length > 0) throw new ApiError("invalid_input", { message: `${name} is given more than once.`, param: name });
    else if (type === "number" || type === "int") fields[name] = /^-?\d{1,15}(\.\d{1,15})?$/.test(text) ? Number(text) : text;
    else if (type === "boolean") fields[name] = FLAGS.get(text) ?? text;
    else fields[name] = text;
  }
  return fields;
}

/** The type below `optional`, `default` and the like. */
function fieldType(schema: unknown): string | undefined {
  let type = schema as z.ZodType | undefined;
  for (let def = type?.def; def; def = type?.def) {
    if (def.type === "union") return unionType(def as z.core.$ZodUnionDef);
    const inner = "innerType" in def ? def.innerType : "in" in def ? def.in : undefined;
    if (!inner) return def.type;
    type = inner as z.ZodType;
  }
  return undefined;
}

/** A choice of one and several is a list. */
const unionType = ({ options }: z.core.$ZodUnionDef): string | undefined =>
  options.some((option) => fieldType(option) === "array") ? "array" : undefined;

function merge(fields: Fields, more: Fields): void {
  for (const [name, value] of Object.entries(more)) {
    if (Object.hasOwn(fields, name) && JSON.stringify(fields[name]) !== JSON.stringify(value)) {
      throw new ApiError("invalid_input", { message: `${name} differs between the query and the body.`, param: name });
    }
    fields[name] = value;
  }
}

function explain(issue: z.core.$ZodIssue | undefined, param: string | undefined): string {
  if (!issue) return "The input is not valid.";
  const missing = issue.code === "invalid_type" && issue.input === undefined && /received undefined/.test(issue.message);
  const what = missing ? "is missing" : issue.message.replace(/^Invalid input: /, "");
  return param ? `${param} ${what}.` : `${what}.`;
}

function rawValues({ rawHeaders }: IncomingMessage, name: string): string[] {
  return rawHeaders.filter((_, i) => i % 2 === 1 && rawHeaders[i - 1]?.toLowerCase() === name);
}
