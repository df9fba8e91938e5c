import { Readable } from "node:stream";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../../lib/llm/completion.ts";
import type { CompletionError } from "../../lib/llm/retry.ts";
import { createUpstream, type Upstream as Model } from "../../lib/llm/upstream.ts";
import { random, seed, trials } from "../support/seed.ts";
import { faults, startUpstream, type Upstream } from "../support/upstream.ts";
import { malformedBytes } from "../support/upstream-faults.ts";

let upstream: Upstream;
let model: Model;
beforeAll(async () => {
  upstream = await startUpstream();
  model = createUpstream({ key: "sk-slices", url: upstream.url, timeoutMs: 20_000 });
});
afterAll(async () => {
  await model.close();
  await upstream.close();
});

/** Everything a consumer learns of a completion, errors as their codes. */
async function outcome(of: Model) {
  const pieces: string[] = [];
  const { signal } = new AbortController();
  const completion = complete(of, { model: "gpt-4o", messages: [], signal, random: () => 0 });
  try {
    for (;;) {
      const { value, done } = await completion.next();
      if (!done) pieces.push(value);
      else return { pieces, finishReason: value.finishReason, model: value.model, usage: value.usage };
    }
  } catch (error) {
    const { code, upstreamCode } = error as CompletionError;
    return { pieces, code, upstreamCode };
  }
}

/** An upstream without a network, whose answer has these bytes, in slices of these sizes in turn. */
function sliced(bytes: Buffer, sizes: () => number, failure?: Error): Model {
  function* slices() {
    for (let at = 0; at < bytes.length; ) {
      const size = sizes();
      yield bytes.subarray(at, at + size);
      at += size;
    }
    if (failure) throw failure;
  }
  const request = async () => ({ status: 200, headers: {}, body: Readable.from(slices(), { objectMode: true }) });
  return { request } as unknown as Model;
}
const whole = (bytes: Buffer, failure?: Error) => sliced(bytes, () => Math.max(1, bytes.length), failure);

const WORDS = [
  "Hello",
  " world",
  "Straße",
  "日本語",
  "🎉",
  "👩🏽‍💻",
  "\n\n",
  "\r\n",
  "data: ",
  ": ",
  "[DONE]",
  "\\",
  '"',
  "\u2028",
  "\uFEFF",
  "\t",
];

/** A stream with everything that a stream may have, and what is to be heard of it. */
function compose(next: () => number) {
  const below = (n: number) => Math.floor(next() * n);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T;
  const ends = pick([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n"]]);
  const lines: string[] = [];
  const send = (value: unknown) => {
    const json = JSON.stringify(value, null, next() < 0.2 ? 1 : 0);
    const escaped =
      next() < 0.3 ? json.replace(/[\u0080-\uFFFF]/g, (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, "0")}`) : json;
    if (next() < 0.2) lines.push(pick(["event: message", "event", "event:"]));
    const colon = next() < 0.3 ? "data:" : "data: ";
    lines.push(...escaped.split("\n").map((line) => colon + line));
    if (next() < 0.2) lines.push(pick(["id: 7", "retry: 10", "unknown: field", "unknown", ": comment", ":"]));
    lines.push("");
  };
  const pieces: string[] = [];
  const usage = next() < 0.5 ? { prompt_tokens: below(100), completion_tokens: below(100) } : null;
  if (next() < 0.3) lines.push(": first a comment", "");
  for (let i = below(8); i > 0; i--) {
    const text = Array.from({ length: below(4) }, () => pick(WORDS)).join("") + (next() < 0.05 ? "x".repeat(below(20_000)) : "");
    send({ model: "m", choices: [{ index: 0, delta: { content: text }, finish_reason: null }] });
    if (text !== "") pieces.push(text);
    if (next() < 0.2) lines.push(pick([": ping", "data:", "data", ""]), "");
  }
  send({ model: "m", choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
  if (usage) send({ model: "m", choices: [], usage });
  if (next() < 0.8) lines.push("data: [DONE]", "", ...(next() < 0.2 ? ["data: {junk", ""] : []));
  const text = lines.map((line) => line + pick(ends)).join("");
  const known = usage && { promptTokens: usage.prompt_tokens, completionTokens: usage.completion_tokens, estimated: false };
  return {
    bytes: Buffer.from((next() < 0.2 ? "\uFEFF" : "") + text),
    heard: { pieces, finishReason: "stop", model: "m", usage: known },
  };
}

const sizesFrom = (next: () => number) => {
  const most = [1, 3, 20, 200, 5_000][Math.floor(next() * 5)] as number;
  return () => 1 + Math.floor(next() * most);
};

describe("what is heard does not depend on how the bytes are cut", () => {
  test(`of a stream with everything a stream may have (SEED=${seed})`, async () => {
    const next = random(seed);
    for (let round = 0; round < trials(2_000); round++) {
      const { bytes, heard } = compose(next);
      expect(await outcome(sliced(bytes, sizesFrom(next))), JSON.stringify(bytes.toString())).toEqual(heard);
    }
  }, 600_000);

  test(`of a stream that is broken in some way (SEED=${seed})`, async () => {
    const next = random(seed + 1);
    const codes = new Set<unknown>();
    for (let round = 0; round < trials(1_000); round++) {
      const good = next() < 0.1 ? malformedBytes : compose(next).bytes;
      const bytes = Buffer.from(good.subarray(0, next() < 0.5 ? good.length : Math.floor(next() * good.length)));
      for (let i = Math.floor(next() * 3); i > 0 && bytes.length > 0; i--) {
        bytes[Math.floor(next() * bytes.length)] = Math.floor(next() * 256);
      }
      const failure = next() < 0.3 ? Object.assign(new Error("cut"), { code: "UND_ERR_SOCKET" }) : undefined;
      const expected = await outcome(whole(bytes, failure));
      codes.add("code" in expected ? expected.code : null);
      expect(await outcome(sliced(bytes, sizesFrom(next), failure)), JSON.stringify(bytes.toString("latin1"))).toEqual(expected);
    }
    if (trials(1_000) >= 100) expect(codes).toEqual(new Set([null, "upstream_garbled", "upstream_reset"]));
  }, 600_000);

  test(`over TCP (SEED=${seed})`, async () => {
    const next = random(seed + 2);
    for (let round = 0; round < trials(300); round++) {
      const { bytes, heard } = compose(next);
      const sizes = Array.from({ length: 50 }, sizesFrom(next));
      upstream.next(faults.slices(bytes, bytes.length > 3_000 ? sizes.map((size) => 40 * size) : sizes));
      expect(await outcome(model), JSON.stringify(bytes.toString())).toEqual(heard);
    }
  }, 600_000);

  test("of one byte at a time", async () => {
    const { bytes, heard } = compose(random(3));
    upstream.next(faults.oneByteChunks(bytes));
    expect(await outcome(model)).toEqual(heard);
  });

  test("of a line of a megabyte, in one piece, in small ones, and over TCP", async () => {
    const content = "日".repeat(350_000);
    const event = `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: "stop" }] })}\n\n`;
    const bytes = Buffer.from(`${event}data: [DONE]\n\n`);
    expect(bytes.length).toBeGreaterThan(1_048_576);
    upstream.next(faults.slices(bytes, [1_400]));
    for (const of of [whole(bytes), sliced(bytes, () => 100), model]) {
      const { pieces, ...end } = await outcome(of);
      expect(pieces.map(({ length }) => length)).toEqual([350_000]);
      expect(pieces[0] === content).toBe(true);
      expect(end).toEqual({ finishReason: "stop", model: null, usage: null });
    }
  });
});
