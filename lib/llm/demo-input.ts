export type Json = Record<string, unknown>;

/** One message of a conversation, whichever API it came through: its text and the addresses of its images. */
export interface Turn {
  role: string;
  text: string;
  images: string[];
}

/** A request the demo model will not answer; it is sent as OpenAI's error object. */
export class Refusal extends Error {
  readonly status: number;
  readonly code: string;
  readonly param: string | null;

  constructor(status: number, code: string, message: string, param: string | null = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

/** The request body as an object; anything else is a 400. */
export function parseBody(bytes: Buffer): Json {
  let body: unknown;
  try {
    body = JSON.parse(bytes.toString("utf8"));
  } catch {
    throw new Refusal(400, "invalid_json", "The request body is not valid JSON. Send a JSON object.");
  }
  if (!isObject(body)) throw new Refusal(400, "invalid_json", "The request body must be a JSON object.");
  return body;
}

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The field's value; a 400 that names the field when it is absent. */
export function required(body: Json, field: string): unknown {
  const value = body[field];
  if (value !== undefined && value !== null) return value;
  throw new Refusal(400, "missing_required_parameter", `Missing required parameter: '${field}'.`, field);
}

/** The field as text; a 400 when it is absent or something else. */
export function requiredText(body: Json, field: string): string {
  const value = required(body, field);
  if (typeof value === "string" && value !== "") return value;
  throw invalid(field, "a non-empty string");
}

/** The field as a whole number of at least 1, null when it is absent, a 400 for anything else. */
export function optionalCount(body: Json, field: string): number | null {
  const value = body[field];
  if (value === undefined || value === null) return null;
  if (typeof value === "number" && Number.isInteger(value) && value >= 1) return value;
  throw invalid(field, "a whole number of at least 1");
}

export function invalid(field: string, expected: string): Refusal {
  return new Refusal(400, "invalid_value", `Invalid value for '${field}': expected ${expected}.`, field);
}

/** `messages` of a chat completion. */
export function chatTurns(body: Json): Turn[] {
  const messages = required(body, "messages");
  if (!Array.isArray(messages) || messages.length === 0 || !messages.every(isObject)) {
    throw invalid("messages", "a list of at least one message");
  }
  return messages.map(toTurn);
}

/** `instructions` and `input` of a response: a text, or a list of messages and other items. */
export function responseTurns(body: Json): Turn[] {
  const input = required(body, "input");
  const items: unknown[] = typeof input === "string" ? [{ role: "user", content: input }] : Array.isArray(input) ? input : [];
  if (items.length === 0 || !items.every(isObject)) throw invalid("input", "a text or a list of at least one item");
  const { instructions } = body;
  const system = typeof instructions === "string" ? [{ role: "system", content: instructions }] : [];
  return [...system, ...items].map(toTurn);
}

function toTurn(message: Json): Turn {
  const { role, content, output } = message;
  const parts = Array.isArray(content) ? content.filter(isObject) : [{ text: content ?? output }];
  return {
    role: typeof role === "string" ? role : "tool",
    text: parts.flatMap(({ text }) => (typeof text === "string" ? [text] : [])).join("\n"),
    images: parts.flatMap(imageOf),
  };
}

/** Chat completions wrap the address in an object, responses do not. */
function imageOf({ image_url: image }: Json): string[] {
  const url = isObject(image) ? image.url : image;
  return typeof url === "string" ? [url] : [];
}
