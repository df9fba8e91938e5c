import { randomUUID } from "node:crypto";
import { type Answer, countTokens } from "./demo-answers.ts";
import { invalid, isObject, type Json, optionalCount, Refusal, required, requiredText } from "./demo-input.ts";

const maxInputs = 2048;
const maxInputTokens = 8192;

/** `POST /v1/embeddings`. Texts that share words get near vectors, so that a search over them finds something. */
export function embed(body: Json): Answer {
  const model = requiredText(body, "model");
  const full = model.includes("large") ? 3072 : 1536;
  const dimensions = optionalCount(body, "dimensions") ?? full;
  if (dimensions > full) throw invalid("dimensions", `at most ${full}`);
  const format = body.encoding_format ?? "float";
  if (format !== "float" && format !== "base64") throw invalid("encoding_format", "float or base64");

  const inputs = embeddingInputs(required(body, "input"));
  const tokens = inputs.reduce((sum, input) => sum + input.tokens, 0);
  const data = inputs.map(({ features }, index) => {
    const vector = unitVector(features, dimensions);
    return { object: "embedding", index, embedding: format === "base64" ? toBase64(vector) : [...vector] };
  });
  return { json: { object: "list", data, model, usage: { prompt_tokens: tokens, total_tokens: tokens } } };
}

/** One text, several, or the same as token numbers; each becomes the words (or tokens) its vector is made of. */
function embeddingInputs(input: unknown): { features: string[]; tokens: number }[] {
  const list: unknown[] = Array.isArray(input) && typeof input[0] !== "number" ? input : [input];
  if (list.length === 0 || list.length > maxInputs) throw invalid("input", `1 to ${maxInputs} texts`);
  return list.map((one) => {
    const tokens = inputTokens(one);
    if (tokens === 0) throw invalid("input", "texts that are not empty, or lists of token numbers");
    if (tokens > maxInputTokens) {
      throw new Refusal(400, "context_length_exceeded", `An input has ${tokens} tokens; ${maxInputTokens} are allowed.`, "input");
    }
    return { features: wordsAndTrigrams(String(one)), tokens };
  });
}

function inputTokens(input: unknown): number {
  if (typeof input === "string") return countTokens(input);
  return Array.isArray(input) && input.every(Number.isInteger) ? input.length : 0;
}

/** Feature hashing (Weinberger et al., 2009): every feature adds one or minus one at a place its hash picks. */
function unitVector(features: string[], dimensions: number): Float32Array {
  const sums = new Float64Array(dimensions);
  for (const feature of features) {
    const hash = fnv1a(feature);
    const place = (hash >>> 1) % dimensions;
    sums[place] = (sums[place] ?? 0) + (hash & 1 ? 1 : -1);
  }
  const length = Math.hypot(...sums);
  if (length > 0) return Float32Array.from(sums, (sum) => sum / length);
  return Float32Array.from(sums, (_, place) => (place === 0 ? 1 : 0));
}

/** Trigrams bring related words ("sail", "sailing") and text without spaces near each other. */
function wordsAndTrigrams(text: string): string[] {
  return wordsOf(text).flatMap((word) => [word, ...Array.from({ length: word.length - 2 }, (_, at) => word.slice(at, at + 3))]);
}

/** FNV-1a over UTF-16 units (Fowler, Noll, Vo), with murmur3's finish (Appleby) because its low bits are weak. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function toBase64(vector: Float32Array): string {
  const bytes = Buffer.alloc(4 * vector.length);
  for (const [index, value] of vector.entries()) bytes.writeFloatLE(value, 4 * index);
  return bytes.toString("base64");
}

/** Whole words and phrases, lower case. Enough to try moderation out; nobody is protected by it. */
const rules: Record<string, string[]> = {
  harassment: ["you idiot", "you moron", "you are worthless", "nobody likes you"],
  "harassment/threatening": ["i know where you live", "i will hurt you", "i will kill you"],
  hate: ["subhuman", "subhumans", "i hate immigrants"],
  "hate/threatening": ["exterminate them", "gas them all"],
  illicit: ["shoplift", "shoplifting", "counterfeit money", "launder money", "buy cocaine"],
  "illicit/violent": ["make a bomb", "build a bomb", "hire a hitman"],
  "self-harm": ["hurt myself", "cut myself", "kill myself", "self harm"],
  "self-harm/instructions": ["how to kill myself", "how to cut myself"],
  "self-harm/intent": ["want to kill myself", "going to kill myself", "want to die", "end my life"],
  sexual: ["porn", "pornography", "nude photos"],
  "sexual/minors": ["child porn", "child pornography"],
  violence: ["kill you", "kill him", "kill her", "kill them", "murder", "stab", "massacre", "make a bomb", "build a bomb"],
  "violence/graphic": ["dismember", "disembowel", "behead"],
};

/** `POST /v1/moderations`: a result for every text of the input, one for a list of parts. Images are not looked at. */
export function moderate(body: Json): Answer {
  const input = required(body, "input");
  const list: unknown[] = Array.isArray(input) ? input : [input];
  if (list.length === 0) throw invalid("input", "a text, a list of texts or a list of parts");
  const model = typeof body.model === "string" ? body.model : "omni-moderation-latest";
  const texts = list.every(isObject) ? [list.map(({ text }) => (typeof text === "string" ? text : "")).join(" ")] : list;
  const results = texts.map((text) => {
    if (typeof text !== "string") throw invalid("input", "a text, a list of texts or a list of parts");
    return judge(text);
  });
  return { json: { id: `modr-${randomUUID().replaceAll("-", "")}`, model, results } };
}

/** One phrase scores 0.9, two 0.99; half is enough to flag. */
function judge(text: string): Json {
  const padded = ` ${wordsOf(text).join(" ")} `;
  const hits = Object.entries(rules).map(([name, phrases]) => {
    return [name, phrases.filter((phrase) => padded.includes(` ${phrase} `)).length] as const;
  });
  return {
    flagged: hits.some(([, count]) => count > 0),
    categories: Object.fromEntries(hits.map(([name, count]) => [name, count > 0])),
    category_scores: Object.fromEntries(hits.map(([name, count]) => [name, count > 0 ? 1 - 0.1 ** count : 0.0001])),
    category_applied_input_types: Object.fromEntries(hits.map(([name]) => [name, padded.trim() ? ["text"] : []])),
  };
}

function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}
