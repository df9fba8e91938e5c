/** The chat request that every load sends, about 1 KB, and the names under which the upstream is told how to behave. */

const SYSTEM = `You are the assistant of a team. ${"Be brief, precise and friendly. ".repeat(10)}`;
const USER = `Sum up what was said today. ${"We met, we talked, and we decided little. ".repeat(9)}`;

/**
 * The upstream's behaviour travels in the model name, because every relay passes that on unchanged.
 * @param {{ chunks?: number, gapMs?: number, delayMs?: number, tag?: string }} behaviour `tag`: letters and digits
 */
export function modelName({ chunks = 50, gapMs = 0, delayMs = 0, tag = "" } = {}) {
  return `bench-chunks${chunks}-gap${gapMs}-delay${delayMs}${tag ? `-tag${tag}` : ""}`;
}

/** @returns {{ chunks: number, gapMs: number, delayMs: number, tag: string }} */
export function behaviourOf(/** @type {string} */ model) {
  const {
    chunks = "50",
    gap = "0",
    delay = "0",
    tag = "",
  } = Object.fromEntries([...model.matchAll(/-(chunks|gap|delay|tag)([A-Za-z0-9]+)/g)].map(([, key, value]) => [key, value]));
  return { chunks: Number(chunks), gapMs: Number(gap), delayMs: Number(delay), tag };
}

export const CHAT_PATH = "/v1/chat/completions";

export function chatBody({ model = modelName(), stream = false } = {}) {
  return JSON.stringify({
    model,
    messages: [
      { role: "system", content: SYSTEM },
      { role: "user", content: USER },
    ],
    temperature: 0.7,
    max_tokens: 256,
    ...(stream && { stream: true, stream_options: { include_usage: true } }),
  });
}
