/**
 * Replies that another member stops: from the wish to the upstream's call being aborted. A few at a time stream side by side,
 * and are stopped early and late. Prints { requests, failed, abortedPercent, delaysMs }; failed: a prompt that was not answered as
 * stopped.
 *
 *   node stop.mjs '{ "port": 8080, "stopPort": 8081, "upstreamPort": 9100, "headers": {}, "memberHeaders": {}, "chats": [], "run": "a" }'
 */
import { setTimeout as sleep } from "node:timers/promises";
import { call } from "../harness/http.mjs";
import { createAsker } from "./asker.mjs";
import { modelName } from "./chat.mjs";

const { port, stopPort, upstreamPort, headers, memberHeaders, chats, run } = JSON.parse(process.argv[2] ?? "{}");
/** After how much of it each of a row is stopped: while its text is passed on often, and while it is passed on sparingly. */
const STOPPED_AFTER_MS = [250, 600, 1_100, 1_700, 5_500];
const APART_MS = 37;
/** Longer than any is left to run. */
const REPLY = { chunks: 1_000, gapMs: 20 };
const GIVE_UP_MS = 3_000;

/** When each was asked to stop, by its tag. @type {Map<string, bigint>} */
const askedNs = new Map();
const owner = createAsker({ port, headers, connections: chats.length });
const member = createAsker({ port: stopPort, headers: memberHeaders, connections: chats.length });

const rows = chats.length / STOPPED_AFTER_MS.length;
const stopped = await Promise.all(Array.from({ length: rows }, (_, row) => stopInARow(row)));

const deadline = performance.now() + GIVE_UP_MS;
let delaysMs = await abortDelaysMs();
while (delaysMs.length < chats.length && performance.now() < deadline) {
  await sleep(50);
  delaysMs = await abortDelaysMs();
}
owner.close();
member.close();
const abortedPercent = (delaysMs.length / chats.length) * 100;
console.log(
  JSON.stringify({ requests: chats.length, failed: stopped.flat().filter((well) => !well).length, abortedPercent, delaysMs }),
);

/** @returns {Promise<boolean[]>} whether each was answered as stopped */
async function stopInARow(/** @type {number} */ row) {
  const well = [];
  for (const [i, afterMs] of STOPPED_AFTER_MS.entries()) {
    const place = row * STOPPED_AFTER_MS.length + i;
    well.push(await stopOne(chats[place], `${run}${place}`, afterMs + row * APART_MS));
  }
  return well;
}

async function stopOne(/** @type {string} */ id, /** @type {string} */ tag, /** @type {number} */ afterMs) {
  const body = { id, prompt: "Go on until I say stop.", stream: true, model: modelName({ ...REPLY, tag }) };
  let isStreaming = () => {};
  const streaming = new Promise((resolve) => {
    isStreaming = () => resolve(true);
  });
  const heard = (/** @type {string} */ piece) => (piece.includes(" t") ? isStreaming() : undefined);
  const answer = owner.ask("/chat/prompt", JSON.stringify(body), { accept: "text/event-stream" }, heard);
  await Promise.race([streaming, answer]);
  await sleep(afterMs);
  askedNs.set(tag, process.hrtime.bigint());
  const asked = await member.ask("/chat/stop", JSON.stringify({ id }));
  const { status, text } = await answer;
  return asked.status === 200 && status === 200 && text.includes("event: stopped\n");
}

async function abortDelaysMs() {
  const { text } = await call({ port: upstreamPort, path: "/stats" });
  const { aborts } = /** @type {{ aborts: { tag: string, atNs: string }[] }} */ (JSON.parse(text));
  return aborts
    .filter(({ tag }) => askedNs.has(tag))
    .map(({ tag, atNs }) => Number(BigInt(atNs) - (askedNs.get(tag) ?? 0n)) / 1e6);
}
