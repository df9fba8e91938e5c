/**
 * What a process used, read from /proc. `schedstat` counts nanoseconds on a CPU per thread, so measurements of a second
 * or two can be compared; the tick counters of `stat` (10 ms) could not.
 */
import fs from "node:fs";

/** @typedef {Map<string, bigint>} CpuSnapshot  nanoseconds by process and thread */

export function processTree(/** @type {number} */ pid) {
  const pids = [pid];
  for (const parent of pids) {
    for (const thread of entries(`/proc/${parent}/task`)) {
      pids.push(...read(`/proc/${parent}/task/${thread}/children`).split(/\s+/).filter(Boolean).map(Number));
    }
  }
  return pids;
}

/** Running or sleeping; one that ended but was not waited for by its parent is not alive. */
export function isAlive(/** @type {number} */ pid) {
  return /^State:\s+[^ZX]/m.test(read(`/proc/${pid}/status`));
}

/** @param {number} pid @returns {CpuSnapshot} every thread of the process and its children */
export function cpuSnapshot(pid) {
  const snapshot = new Map();
  for (const each of processTree(pid)) {
    for (const thread of entries(`/proc/${each}/task`)) {
      const [nanoseconds] = read(`/proc/${each}/task/${thread}/schedstat`).split(" ");
      if (nanoseconds) snapshot.set(`${each}/${thread}`, BigInt(nanoseconds));
    }
  }
  return snapshot;
}

/** CPU seconds since the snapshot. What a thread used before it ended in between is not counted. */
export function cpuSecondsSince(/** @type {number} */ pid, /** @type {CpuSnapshot} */ before) {
  let nanoseconds = 0n;
  for (const [thread, now] of cpuSnapshot(pid)) nanoseconds += now - (before.get(thread) ?? 0n);
  return Number(nanoseconds) / 1e9;
}

export const residentMiB = (/** @type {number} */ pid) => memoryMiB(pid, "VmRSS");
export const peakResidentMiB = (/** @type {number} */ pid) => memoryMiB(pid, "VmHWM");

function memoryMiB(/** @type {number} */ pid, /** @type {string} */ field) {
  const pattern = new RegExp(`^${field}:\\s+(\\d+) kB`, "m");
  const kibibytes = processTree(pid).map((each) => Number(pattern.exec(read(`/proc/${each}/status`))?.[1] ?? 0));
  return kibibytes.reduce((sum, value) => sum + value, 0) / 1024;
}

/** A thread may end between listing and reading; then it has nothing to say. */
function read(/** @type {string} */ file) {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function entries(/** @type {string} */ folder) {
  try {
    return fs.readdirSync(folder);
  } catch {
    return [];
  }
}
