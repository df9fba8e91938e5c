/** What is asked of chats: every row, what it is compared with, and the targets. */
import { answers, atLeast, atMost, highest } from "./questions.mjs";

/** @typedef {import("./questions.mjs").Question} Question */

const NONE = { metric: "promptCpuUs:none", name: "without" };

/** @returns {Question[]} */
const fanout = (/** @type {string} */ variant, /** @type {string} */ when) => [
  { what: `CPU per delivery, ${when}`, metric: `cpuUsPerDelivery:${variant}`, unit: "µs", peer: "naive", target: atMost(0.65) },
  { what: `CPU per delivery less the prompts' own, ${when}`, metric: `deliveryCpuUs:${variant}`, unit: "µs", peer: "naive" },
  { what: `Deliveries lost, ${when}`, metric: `lost:${variant}`, unit: "", of: highest, target: atMost(0) },
  { what: `Deliveries doubled, ${when}`, metric: `doubled:${variant}`, unit: "", of: highest, target: atMost(0) },
  { what: `Upstream's piece to the last viewer, ${when}`, metric: `lastViewerMs:${variant}`, unit: "ms" },
];

/** @returns {Question[]} */
const long = (/** @type {string} */ kind, /** @type {string} */ how) => [
  {
    what: `Prompt, 100,000 messages in the chat, ${how}`,
    metric: `promptMs:long${kind}`,
    unit: "ms",
    baseline: { metric: `promptMs:empty${kind}`, name: "empty chat" },
    ...(kind === "" && { target: atMost(1.1) }),
  },
];

/** @type {Question[]} */
const QUESTIONS = [
  ...fanout("reply", "1,000 viewers of a reply"),
  ...fanout("fast", "1,000 viewers, prompts come fast"),
  { what: "Memory per idle viewer", metric: "idleKiB", unit: "KiB", target: atMost(16) },
  { what: "Added by a viewer that never reads 60 MB", metric: "stalledMiB", unit: "MiB", target: atMost(20) },
  { what: "Redis commands, reply of 600 tokens, one watches", metric: "commandsPerReply", unit: "", target: atMost(80) },
  { what: "The same with what scripts call", metric: "withScripts", unit: "" },
  { what: "Redis commands per idle viewer-minute", metric: "commandsPerIdleMinute", unit: "", target: atMost(0) },
  { what: "First piece of a reply, upstream to viewer", metric: "firstViewerMs", unit: "ms" },
  { what: "First piece of a reply, upstream to prompter", metric: "firstPrompterMs", unit: "ms" },
  { what: "Prompt's round trip, added to the upstream's", metric: "roundTripMs", unit: "ms", added: true },
  { what: "Stopped by another member: aborted", metric: "stopAbortedPercent", unit: "%", target: atLeast(100) },
  { what: "Stopped by another member: median", metric: "stopMedianMs", unit: "ms" },
  { what: "Stopped by another member: worst", metric: "stopWorstMs", unit: "ms", of: highest, target: atMost(500) },
  ...long("", "with context"),
  ...long("Bare", "without"),
  { what: "Context of ten pairs (20 KB): CPU per prompt", metric: "promptCpuUs:pairs", unit: "µs", baseline: NONE },
  {
    what: "Context of ten pairs: database's CPU per prompt",
    metric: "promptDatabaseCpuUs:pairs",
    unit: "µs",
    baseline: { ...NONE, metric: "promptDatabaseCpuUs:none" },
  },
  {
    what: "Context of ten pairs: latency of a prompt",
    metric: "promptLatencyMs:pairs",
    unit: "ms",
    baseline: { ...NONE, metric: "promptLatencyMs:none" },
  },
  {
    what: "Context of ten pairs read alone: CPU",
    metric: "contextCpuUs",
    unit: "µs",
    baseline: { metric: "cachedContextCpuUs", name: "Redis" },
  },
  {
    what: "Context of ten pairs read alone: latency",
    metric: "contextMs",
    unit: "ms",
    baseline: { metric: "cachedContextMs", name: "Redis" },
  },
];

/** What the same costs where nothing was done about it. @type {Question[]} */
const NAIVE = [
  { what: "Memory per idle viewer", metric: "idleKiB", unit: "KiB" },
  { what: "Added by a viewer that never reads 60 MB", metric: "stalledMiB", unit: "MiB" },
];

const SUBJECTS = {
  sqlite: "proxy-gpt, SQLite",
  postgres: "proxy-gpt, Postgres",
  redis: "two instances, Redis",
  upstash: "two instances, Upstash",
};

/** @returns {import("./questions.mjs").Row[]} those for which something was measured */
export function buildChatRows(/** @type {import("../harness/samples.mjs").Samples} */ samples) {
  return [...answers(samples, QUESTIONS, SUBJECTS), ...answers(samples, NAIVE, { naive: "the naive server" })];
}
