import { execFile, spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { isAlive, processTree } from "./accounting.mjs";
import { call } from "./http.mjs";

/**
 * @typedef {object} Running  a process that this run started
 * @property {string} name
 * @property {number} pid
 * @property {string} logFile
 * @property {() => boolean} ended
 * @property {() => Promise<void>} stop
 */

/**
 * @typedef {object} StartOptions
 * @property {string} name
 * @property {string} command
 * @property {string[]} args
 * @property {string} logFile
 * @property {string} cwd
 * @property {Record<string, string>} [env]  added to a small clean environment, never to the caller's
 * @property {number | null} [cpu]  the one CPU it may use
 * @property {{ uid: number, gid: number }} [user]
 * @property {Signals} [signals]
 */

/**
 * @typedef {object} Signals  how it is asked to stop, how it is made to, and whether its children are told as well
 * @property {NodeJS.Signals} stop
 * @property {NodeJS.Signals} kill
 * @property {boolean} children
 */

/** @type {Signals} */
const USUAL_SIGNALS = { stop: "SIGTERM", kill: "SIGKILL", children: true };
const STOP_TIMEOUT_MS = 10_000;

/** What was started here and has not ended. @type {Map<number, Signals>} */
const started = new Map();

/** @param {StartOptions} options @returns {Running} */
export function start({ name, command, args, logFile, cwd, env = {}, cpu = null, user, signals = USUAL_SIGNALS }) {
  const [file, ...rest] = pinned(cpu, command, args);
  const log = fs.openSync(logFile, "w");
  const child = spawn(/** @type {string} */ (file), rest, {
    cwd,
    env: { ...cleanEnvironment(), ...env },
    stdio: ["ignore", log, log],
    ...user,
  });
  fs.closeSync(log);
  child.on("error", (error) => fs.appendFileSync(logFile, String(error)));
  const { pid } = child;
  if (pid === undefined) throw new Error(`${name} cannot be started: ${command}`);
  started.set(pid, signals);
  child.once("exit", () => started.delete(pid));
  return { name, pid, logFile, ended: () => !started.has(pid), stop: () => stop(pid, signals) };
}

/** Ends exactly the process that was started, and its children unless it ends them itself. */
async function stop(/** @type {number} */ pid, /** @type {Signals} */ signals) {
  const pids = family(pid, signals);
  send(pids, signals.stop);
  const deadline = performance.now() + STOP_TIMEOUT_MS;
  while (pids.some(isAlive)) {
    if (performance.now() > deadline) send(pids.filter(isAlive), signals.kill);
    await sleep(20);
  }
}

/**
 * Resolves with the milliseconds until the first 200.
 * @param {Running} running
 * @param {{ port: number, path: string, timeoutMs?: number, everyMs?: number, since?: number }} options
 */
export async function untilServing(running, { port, path, timeoutMs = 20_000, everyMs = 50, since = performance.now() }) {
  while (performance.now() - since < timeoutMs) {
    if (running.ended()) throw new Error(`${running.name} ended at once:\n${lastLines(running.logFile)}`);
    const answer = await call({ port, path, timeoutMs: 2_000 }).catch(() => null);
    if (answer?.status === 200) return performance.now() - since;
    await sleep(everyMs);
  }
  throw new Error(`${running.name} did not answer ${path} in ${timeoutMs} ms:\n${lastLines(running.logFile)}`);
}

/**
 * Runs a command to its end and resolves with its standard output.
 * @param {string} command
 * @param {string[]} args
 * @param {{ cpu?: number | null, cwd?: string, timeoutMs?: number }} [options]
 * @returns {Promise<string>}
 */
export function run(command, args, { cpu = null, cwd = ".", timeoutMs = 180_000 } = {}) {
  const [file, ...rest] = pinned(cpu, command, args);
  return new Promise((resolve, reject) => {
    const options = { cwd, maxBuffer: 64 << 20, timeout: timeoutMs };
    execFile(/** @type {string} */ (file), rest, options, (error, stdout, stderr) => {
      if (error) reject(new Error(`${command} failed: ${error.message}\n${stderr}`));
      else resolve(stdout);
    });
  });
}

/** Where the parts of the bench run: the measured proxy alone on one CPU, everything else beside it. */
export function cpuPlan(/** @type {number} */ cpus) {
  const canPin = cpus > 1 && spawnSync("taskset", ["-c", "0,1", "true"]).status === 0;
  return canPin ? { proxy: 0, load: 1, database: cpus > 2 ? 2 : 1 } : { proxy: null, load: null, database: null };
}

export function exists(/** @type {string} */ command) {
  return spawnSync("sh", ["-c", `command -v ${command}`], { env: cleanEnvironment() }).status === 0;
}

/** Without the caller's settings: an `OPENAI_API_KEY` or a proxy of the shell must not take part. */
export function cleanEnvironment() {
  const { HOME = "/", LANG = "C.UTF-8", PATH = "" } = process.env;
  return { HOME, LANG, PATH: `${PATH}:/usr/sbin:/sbin`, NODE_ENV: "production" };
}

export function lastLines(/** @type {string} */ file, count = 15) {
  return fs.existsSync(file) ? fs.readFileSync(file, "utf8").trimEnd().split("\n").slice(-count).join("\n") : "";
}

function pinned(/** @type {number | null} */ cpu, /** @type {string} */ command, /** @type {string[]} */ args) {
  return cpu === null ? [command, ...args] : ["taskset", "-c", String(cpu), command, ...args];
}

function family(/** @type {number} */ pid, /** @type {Signals} */ { children }) {
  return children ? processTree(pid).reverse() : [pid];
}

function send(/** @type {number[]} */ pids, /** @type {NodeJS.Signals} */ signal) {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // It ended by itself.
    }
  }
}

/** An interrupted run leaves nothing behind. */
process.on("exit", () => {
  for (const [pid, signals] of started) send(family(pid, signals), signals.kill);
});
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
