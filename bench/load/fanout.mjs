/**
 * A thousand viewers of one chat, on our server and on a naive one, who stay for the whole run. In each round a reply streams,
 * and then prompts come fast; the naive server is said the same frames at the same moments afterwards. Prints { measured: [{ name, round,
 * variant, frames, deliveries, cpuUsPerDelivery, aloneUsPerDelivery, busyPercent, lost, doubled, disordered, broken, lastViewerMs, fromUs,
 * toUs }] }; alone: what the same prompts cost in a chat that nobody watches.
 *
 *   node fanout.mjs '{ "ours": { "port", "pid", "headers", "chatId", "quietChatId" }, "naive": { "port", "pid" }, "viewers": 1000, "rounds": 5 }'
 */
import { setTimeout as sleep } from "node:timers/promises";
import { cpuSecondsSince, cpuSnapshot } from "../harness/accounting.mjs";
import { createAsker } from "./asker.mjs";
import { modelName } from "./chat.mjs";
import { Crowd } from "./crowd.mjs";
import { parseFrame } from "./viewer.mjs";

const { ours, naive, viewers, rounds } = JSON.parse(process.argv[2] ?? "{}");
const PROMPT = "What did we decide today, and who does what until Friday? Please be brief.";
const SETTLE_MS = 300;
/** About 60 tokens a second: a reply of three seconds, and short ones to ten prompts a second. */
const VARIANTS = {
  reply: { prompts: 1, everyMs: 0, model: modelName({ chunks: 180, gapMs: 16 }) },
  fast: { prompts: 20, everyMs: 100, model: modelName({ chunks: 5, gapMs: 5 }) },
};

/** @typedef {{ reply: string, message: { id: string } }} Answer */

const asker = createAsker({ port: ours.port, headers: ours.headers });
const crowd = new Crowd();
await crowd.open({ port: ours.port, path: `/chat/stream?id=${ours.chatId}`, headers: ours.headers }, viewers);
/** The naive server says in order what it is told on one connection. */
const teller = naive && createAsker({ port: naive.port, connections: 1 });
const naiveCrowd = new Crowd();
if (naive) await naiveCrowd.open({ port: naive.port, path: "/stream" }, viewers);

const measured = [];
crowd.begin();
await prompts(ours.chatId, VARIANTS.fast); // compiled code and warm caches, on either side
await crowd.quiet();
if (naive) await retell(crowd.said);
const aloneSeconds = { reply: await promptsAlone(VARIANTS.reply), fast: await promptsAlone(VARIANTS.fast) };
for (let round = 0; round < rounds; round++) {
  for (const [variant, how] of Object.entries(VARIANTS)) {
    /** @type {Answer[]} */
    let answers = [];
    const own = await measure(ours.pid, crowd, async () => {
      answers = await prompts(ours.chatId, how);
    });
    const { said } = crowd;
    const aloneUsPerDelivery = (aloneSeconds[/** @type {keyof typeof VARIANTS} */ (variant)] / own.deliveries) * 1e6;
    const more = { aloneUsPerDelivery, broken: brokenReplies(said, answers, how.prompts), lastViewerMs: crowd.lastViewerMs() };
    measured.push({ name: "ours", round, variant, ...own, ...crowd.faults(), ...more });
    if (!naive) continue;
    const peers = await measure(naive.pid, naiveCrowd, () => retell(said));
    measured.push({ name: "naive", round, variant, ...peers, ...naiveCrowd.faults(said.map(({ text }) => text)) });
  }
}
crowd.close();
naiveCrowd.close();
asker.close();
teller?.close();
console.log(JSON.stringify({ measured }));

/**
 * @param {number} pid
 * @param {Crowd} heard
 * @param {() => Promise<void>} say
 */
async function measure(pid, heard, say) {
  heard.begin();
  const before = cpuSnapshot(pid);
  const fromUs = monotonicUs();
  await say();
  await heard.quiet();
  const toUs = monotonicUs();
  const cpuSeconds = cpuSecondsSince(pid, before);
  const { deliveries } = heard;
  return {
    frames: heard.said.length,
    deliveries,
    cpuUsPerDelivery: (cpuSeconds / deliveries) * 1e6,
    busyPercent: (cpuSeconds / ((toUs - fromUs) / 1e6)) * 100,
    fromUs,
    toUs,
  };
}

/** @param {{ prompts: number, everyMs: number, model: string }} how @returns {Promise<number>} CPU seconds */
async function promptsAlone(how) {
  const before = cpuSnapshot(ours.pid);
  await prompts(ours.quietChatId, how);
  await sleep(SETTLE_MS);
  return cpuSecondsSince(ours.pid, before);
}

/**
 * @param {string} id
 * @param {{ prompts: number, everyMs: number, model: string }} how
 * @returns {Promise<Answer[]>} of those that were answered
 */
async function prompts(id, { prompts, everyMs, model }) {
  const body = JSON.stringify({ id, prompt: PROMPT, stream: true, model });
  const answers = [];
  for (let i = 0; i < prompts; i++) {
    if (i > 0) await sleep(everyMs);
    answers.push(asker.ask("/chat/prompt", body));
  }
  const settled = await Promise.all(answers);
  return settled.filter(({ status }) => status === 200).map(({ text }) => JSON.parse(text));
}

async function retell(/** @type {import("./crowd.mjs").Said[]} */ said) {
  const startedAt = performance.now();
  const told = [];
  for (const { atMs, text } of said) {
    const earlyMs = atMs - (performance.now() - startedAt);
    if (earlyMs > 1) await sleep(earlyMs);
    told.push(teller?.ask("/say", JSON.stringify(parseFrame(text))));
  }
  await Promise.all(told);
}

/**
 * How many replies do not read in the stream as in the answer to their prompt: each begins and ends once, and its pieces are
 * the whole. What all viewers lost or got twice shows here.
 * @param {import("./crowd.mjs").Said[]} said
 * @param {Answer[]} answers
 * @param {number} asked
 */
function brokenReplies(said, answers, asked) {
  /** @type {Map<string, { begun: number, ended: number, pieces: string, whole: string }>} */
  const replies = new Map();
  for (const { text } of said) {
    const { message, partial } = parseFrame(text).data;
    const reply = replies.get(message.id) ?? { begun: 0, ended: 0, pieces: "", whole: "" };
    replies.set(message.id, reply);
    if (!partial) Object.assign(reply, { ended: reply.ended + 1, whole: message.reply });
    else if (message.reply === "") reply.begun++;
    else reply.pieces += message.reply;
  }
  const sound = answers.filter(({ reply, message }) => {
    const { begun, ended, pieces, whole } = replies.get(message.id) ?? {};
    return begun === 1 && ended === 1 && pieces === reply && whole === reply;
  });
  return asked - sound.length;
}

/** The clock of V8's profiles. */
function monotonicUs() {
  return Number(process.hrtime.bigint() / 1000n);
}
