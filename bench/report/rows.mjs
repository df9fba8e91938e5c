/** What is asked of `/v1`: every row of the report, what it is compared with, and the targets. */
import { answers, atLeast, atMost, highest, lowest } from "./questions.mjs";

/**
 * @typedef {import("../harness/samples.mjs").Samples} Samples
 * @typedef {import("./questions.mjs").Question} Question
 */

/** @returns {Question[]} */
const hangUp = (/** @type {string} */ phase, /** @type {string} */ when) => [
  { what: `Hang-up ${when}: aborted`, metric: `abortedPercent:${phase}`, unit: "%", of: lowest, target: atLeast(100) },
  { what: `Hang-up ${when}: median`, metric: `abortMedianMs:${phase}`, unit: "ms", target: atMost(5) },
  { what: `Hang-up ${when}: worst`, metric: `abortWorstMs:${phase}`, unit: "ms", of: highest, target: atMost(100) },
];

/** @type {Question[]} */
const QUESTIONS = [
  { what: "CPU per request, 16 connections", metric: "cpuUs@16", unit: "µs", peer: "relay", target: atMost(1.5) },
  { what: "CPU per request, 64 connections", metric: "cpuUs@64", unit: "µs", peer: "relay", target: atMost(1.5) },
  { what: "CPU per request, 16 connections", metric: "cpuUs@16", unit: "µs", peer: "portkey", target: atMost(0.1) },
  { what: "CPU per request, 64 connections", metric: "cpuUs@64", unit: "µs", peer: "portkey", target: atMost(0.1) },
  { what: "CPU per request, 64 connections", metric: "cpuUs@64", unit: "µs", peer: "nginx" },
  { what: "CPU per request of the database server", metric: "databaseCpuUs@64", unit: "µs" },
  { what: "Requests per second, 64 connections", metric: "perSecond@64", unit: "/s", peer: "portkey", target: atLeast(8) },
  { what: "Requests per second, 64 connections", metric: "perSecond@64", unit: "/s", peer: "nginx", target: atLeast(0.5) },
  {
    what: "Latency added at 200 requests/s",
    metric: "latencyMs@200/s",
    unit: "ms",
    added: true,
    peer: "portkey",
    target: atMost(0.5),
  },
  { what: "First byte of a stream, added", metric: "firstByteMs", unit: "ms", added: true, peer: "portkey", target: atMost(0.1) },
  { what: "CPU per streamed chunk", metric: "cpuUsPerChunk", unit: "µs", peer: "portkey", target: atMost(0.5) },
  ...hangUp("stream", "mid-stream"),
  ...hangUp("wait", "before the first byte"),
  { what: "Resident memory, idle", metric: "idleMiB", unit: "MiB", target: atMost(100) },
  { what: "Resident memory, after load", metric: "loadedMiB", unit: "MiB", target: atMost(160) },
  { what: "npm start to /health, first run", metric: "firstStartMs", unit: "ms", target: atMost(1000) },
  { what: "npm start to /health, later", metric: "laterStartMs", unit: "ms", target: atMost(1000) },
];

/** What the targets lean on. @type {Question} */
const RELAY_QUESTION = { what: "CPU per request, 64 connections", metric: "cpuUs@64", unit: "µs", peer: "nginx" };

const SUBJECTS = { sqlite: "proxy-gpt, SQLite", postgres: "proxy-gpt, Postgres" };

/** @returns {import("./questions.mjs").Row[]} those for which something was measured */
export function buildRows(/** @type {Samples} */ samples) {
  return [...answers(samples, QUESTIONS, SUBJECTS), ...answers(samples, [RELAY_QUESTION], { relay: "the bare relay" })];
}
