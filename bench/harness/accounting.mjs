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

/**
 * How much of the machine went to others than this run since the call, in percent of all CPUs: the figure that says
 * whether the rest can be trusted.
 * @returns {() => number}
 */
export function watchOthers(/** @type {number} */ cpus) {
  const [machineBefore, ownBefore, startedAt] = [machineSeconds(), cpuSnapshot(process.pid), performance.now()];
  const endedBefore = endedChildrenSeconds();
  return () => {
    const own = cpuSecondsSince(process.pid, ownBefore) + endedChildrenSeconds() - endedBefore;
    const available = ((performance.now() - startedAt) / 1000) * cpus;
    return Math.max(0, ((machineSeconds() - machineBefore - own) / available) * 100);
  };
}

export const residentMiB = (/** @type {number} */ pid) => memoryMiB(pid, "VmRSS");
export const peakResidentMiB = (/** @type {number} */ pid) => memoryMiB(pid, "VmHWM");

function memoryMiB(/** @type {number} */ pid, /** @type {string} */ field) {
  const pattern = new RegExp(`^${field}:\\s+(\\d+) kB`, "m");
  const kibibytes = processTree(pid).map((each) => Number(pattern.exec(read(`/proc/${each}/status`))?.[1] ?? 0));
  return kibibytes.reduce((sum, value) => sum + value, 0) / 1024;
}

const TICKS_PER_SECOND = 100; // of the files below, on every Linux that Node runs on

/** Everything but idle and waiting for disks; what a hypervisor gave to another machine counts as used. */
function machineSeconds() {
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = read("/proc/stat").split(/\s+/).map(Number);
  return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND;
}

/** Load generators that ran and ended. */
function endedChildrenSeconds() {
  const fields = read("/proc/self/stat").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[13]) + Number(fields[14])) / TICKS_PER_SECOND;
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
