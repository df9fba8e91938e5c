/** What is asked of the figures: every row of the report, what it is compared with, and whether its target was reached. */
import { median, pairedDifferences, pairedRatios, spread } from "../harness/statistics.mjs";

/**
 * @typedef {import("../harness/samples.mjs").Samples} Samples
 * @typedef {{ sign: "≤" | "≥", value: number }} Target  for the ratio where there is a peer, else for the value
 */

/**
 * @typedef {object} Question
 * @property {string} what
 * @property {string} metric
 * @property {string} unit
 * @property {string} [peer]  the ratio to this peer is what counts
 * @property {boolean} [added]  less what the upstream takes when it is asked directly
 * @property {(values: number[]) => number} [of]  the round that counts, the median unless told
 * @property {Target} [target]  none for a row that only explains
 */

/**
 * @typedef {object} Row
 * @property {string} what
 * @property {string} subject
 * @property {string} unit
 * @property {number} ours
 * @property {string | null} peer
 * @property {number | null} peers
 * @property {number | null} ratio
 * @property {number} min  of the ratio, or of the value, over the rounds
 * @property {number} max
 * @property {Target | null} target
 * @property {boolean | null} reached
 */

/** @returns {Target} */
const atMost = (/** @type {number} */ value) => ({ sign: "≤", value });
/** @returns {Target} */
const atLeast = (/** @type {number} */ value) => ({ sign: "≥", value });
const lowest = (/** @type {number[]} */ values) => Math.min(...values);
const highest = (/** @type {number[]} */ values) => Math.max(...values);

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

export const SUBJECTS = { sqlite: "proxy-gpt, SQLite", postgres: "proxy-gpt, Postgres" };

/** @returns {Row[]} those for which something was measured */
export function buildRows(/** @type {Samples} */ samples) {
  const rows = QUESTIONS.flatMap((question) =>
    Object.entries(SUBJECTS).map(([name, subject]) => answer(samples, question, name, subject)),
  );
  rows.push(answer(samples, RELAY_QUESTION, "relay", "the bare relay"));
  return rows.filter((row) => row !== null);
}

/**
 * @param {Samples} samples
 * @param {Question} question
 * @param {string} name
 * @param {string} subject
 * @returns {Row | null}
 */
function answer(samples, { what, metric, unit, peer, added = false, of = median, target }, name, subject) {
  const valuesOf = (/** @type {string} */ who) => {
    const values = samples.get(who, metric);
    return added ? pairedDifferences(values, samples.get("direct", metric)) : values;
  };
  const ours = valuesOf(name);
  const peers = peer === undefined ? [] : valuesOf(peer);
  const ratios = pairedRatios(ours, peers);
  const judged = peer === undefined ? ours : ratios;
  if (judged.length === 0 || (target === undefined && !judged.some(Number.isFinite))) return null;
  const figure = peer === undefined ? of(ours) : median(ratios);
  const { min, max } = spread(judged);
  return {
    ...{ what, subject, unit, min, max, ours: of(ours) },
    peer: peer ?? null,
    peers: peer === undefined ? null : median(peers),
    ratio: peer === undefined ? null : figure,
    target: target ?? null,
    reached: target === undefined ? null : meets(figure, target),
  };
}

/** Nothing measured (NaN) reaches nothing. */
function meets(/** @type {number} */ figure, /** @type {Target} */ { sign, value }) {
  return sign === "≤" ? figure <= value : figure >= value;
}
