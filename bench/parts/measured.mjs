/** What the parts of either run measure with. */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cpuSecondsSince, cpuSnapshot } from "../harness/accounting.mjs";
import { run } from "../harness/processes.mjs";
import { BENCH_FOLDER } from "../peers/testbed.mjs";

/**
 * @typedef {import("../peers/testbed.mjs").Peer} Peer
 * @typedef {import("../peers/testbed.mjs").Testbed} Testbed
 */

const SETTLE_MS = 100; // records written after the answer belong to the request too

/**
 * Runs a load generator in a process of its own, beside the proxy's CPU, and counts what it asked of the peer.
 * @param {string} name
 * @param {Peer} peer
 * @param {Testbed} testbed
 * @param {Record<string, unknown>} options
 */
export async function loaded(name, peer, testbed, options) {
  return count(peer, await load(name, testbed, { port: peer.port, headers: peer.headers, ...options }));
}

/**
 * The same for a load that names its peers itself.
 * @param {string} name
 * @param {Testbed} testbed
 * @param {Record<string, unknown>} input
 * @param {number} [timeoutMs]
 */
export async function load(name, { cpus }, input, timeoutMs) {
  const script = path.join(BENCH_FOLDER, "load", `${name}.mjs`);
  const options = { cpu: cpus.load, ...(timeoutMs !== undefined && { timeoutMs }) };
  return JSON.parse(await run(process.execPath, [script, JSON.stringify(input)], options));
}

/**
 * What the peer's processes, and its database's, used meanwhile.
 * @template {{ requests: number, failed: number }} T
 * @param {Peer} peer
 * @param {() => Promise<T>} measure
 */
export async function accounted(peer, measure) {
  const own = accountOf(peer.running?.pid ?? null);
  const database = accountOf(peer.databasePid);
  const startedAt = performance.now();
  const result = await measure();
  const elapsedSeconds = (performance.now() - startedAt) / 1000;
  await sleep(SETTLE_MS);
  return { ...result, elapsedSeconds, cpuSeconds: own(), databaseSeconds: database() };
}

/** Without what a peer does not have: the upstream has no proxy's CPU, a peer without a database none of that. */
export function known(/** @type {Record<string, number>} */ values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => !Number.isNaN(value)));
}

/**
 * @template {{ requests: number, failed: number }} T
 * @param {Peer} peer
 * @param {T} result
 */
export function count(peer, result) {
  peer.requests += result.requests;
  peer.failed += result.failed;
  return result;
}

function accountOf(/** @type {number | null} */ pid) {
  if (pid === null) return () => Number.NaN;
  const before = cpuSnapshot(pid);
  return () => cpuSecondsSince(pid, before);
}
