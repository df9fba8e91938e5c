/**
 * Where proxy-gpt's CPU time goes under a closed-loop load, or while it tells a thousand viewers of a reply (`--fanout=reply`) or
 * of prompts that come fast: runs it with `node --cpu-prof` and prints the functions and the files with the most time of their
 * own. Explains a figure of run.mjs or chat.mjs; the profiler itself slows the server down.
 *
 *   node bench/profile.mjs [--seconds=10] [--connections=64] [--store=sqlite|postgres] [--stream] [--top=30] [--keep=FILE]
 *   node bench/profile.mjs --fanout=reply|fast [--rounds=3] [--store=sqlite|postgres] [--top=30] [--keep=FILE]
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { post } from "./harness/api.mjs";
import { exists } from "./harness/processes.mjs";
import { closedLoop } from "./load/closed.mjs";
import { load } from "./parts/measured.mjs";
import { warmUp } from "./parts/rounds.mjs";
import { openTestbed, signIn } from "./peers/start.mjs";
import { PROJECT_FOLDER } from "./peers/testbed.mjs";
import { selfTimes } from "./report/cpu-profile.mjs";
import { alignedTable } from "./report/print.mjs";

/** @typedef {{ fromUs: number, toUs: number }} Window  of the time that is looked at */

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "10" },
    connections: { type: "string", default: "64" },
    store: { type: "string", default: "sqlite" },
    stream: { type: "boolean", default: false },
    fanout: { type: "string" },
    rounds: { type: "string", default: "3" },
    top: { type: "string", default: "30" },
    keep: { type: "string" },
    entry: { type: "string", default: path.join(PROJECT_FOLDER, "dist/local/main.mjs") },
  },
});
if (values.fanout !== undefined && !["reply", "fast"].includes(values.fanout)) fail("--fanout is reply or fast");
if (values.fanout === undefined && !exists("wrk")) fail("wrk makes the load and is not installed: apt-get install wrk");
if (!fs.existsSync(values.entry)) fail(`${values.entry} is not built: node build.mjs local`);
if (!["sqlite", "postgres"].includes(values.store)) fail("--store is sqlite or postgres");

const profiles = fs.mkdtempSync(path.join(os.tmpdir(), "proxy-gpt-bench-profile-"));
process.once("exit", () => fs.rmSync(profiles, { recursive: true, force: true }));
const testbed = await openTestbed({
  names: new Set([values.store]),
  entry: path.resolve(values.entry),
  nodeOptions: ["--cpu-prof", `--cpu-prof-dir=${profiles}`, "--cpu-prof-interval=500"],
  progress,
});
/** @type {Window[]} */
let windows = [];
try {
  await signIn(testbed);
  const [peer] = testbed.peers;
  if (peer === undefined) throw new Error(testbed.leftOut.join("\n"));
  windows = values.fanout === undefined ? [await closedLoopWindow(peer)] : await fanoutWindows(peer, values.fanout);
} finally {
  await testbed.stop(); // the profile is written when the server ends
}

for (const file of fs.readdirSync(profiles).map((name) => path.join(profiles, name))) {
  if (values.keep !== undefined) fs.copyFileSync(file, values.keep);
  printProfile(JSON.parse(fs.readFileSync(file, "utf8")));
}

async function closedLoopWindow(/** @type {import("./peers/testbed.mjs").Peer} */ peer) {
  await warmUp(peer, testbed);
  progress(`profiling for ${values.seconds} s`);
  const { port, headers } = peer;
  const { folder, cpus } = testbed;
  const [connections, seconds] = [Number(values.connections), Number(values.seconds)];
  const fromUs = monotonicUs();
  const { requests, failed } = await closedLoop({
    port,
    headers,
    connections,
    seconds,
    folder,
    cpu: cpus.load,
    stream: values.stream,
  });
  progress(`${requests} requests, ${failed} failed`);
  return { fromUs, toUs: monotonicUs() };
}

/** @returns {Promise<Window[]>} */
async function fanoutWindows(/** @type {import("./peers/testbed.mjs").Peer} */ peer, /** @type {string} */ variant) {
  const { id: chatId } = await post(peer, "/chat/create", {});
  const { id: quietChatId } = await post(peer, "/chat/create", {});
  const ours = { port: peer.port, pid: peer.running?.pid, headers: peer.headers, chatId, quietChatId };
  progress(`profiling ${values.rounds} rounds`);
  const { measured } = await load("fanout", testbed, { ours, viewers: 1_000, rounds: Number(values.rounds) });
  const looked = measured.filter((/** @type {{ variant: string }} */ one) => one.variant === variant);
  for (const { deliveries, cpuUsPerDelivery } of looked)
    progress(`${deliveries} deliveries, ${cpuUsPerDelivery.toFixed(2)} µs each`);
  return looked;
}

function printProfile(/** @type {import("node:inspector").Profiler.Profile} */ profile) {
  const { busyMs, idleMs, byFunction, byFile } = selfTimes(profile, { windows, root: PROJECT_FOLDER });
  const lines = (/** @type {Map<string, number>} */ times) =>
    [...times]
      .sort(([, a], [, b]) => b - a)
      .slice(0, Number(values.top))
      .map(([name, ms]) => [`${((ms / busyMs) * 100).toFixed(1)} %`, ms.toFixed(0), name]);
  console.log(`\nThread busy ${busyMs.toFixed(0)} ms, idle ${idleMs.toFixed(0)} ms\n`);
  console.log(alignedTable([["self", "ms", "function"], ...lines(byFunction)]));
  console.log(`\n${alignedTable([["self", "ms", "file or package"], ...lines(byFile)])}`);
}

/** The clock of V8's profiles. */
function monotonicUs() {
  return Number(process.hrtime.bigint() / 1000n);
}

function progress(/** @type {string} */ line) {
  process.stderr.write(`profile: ${line}\n`);
}

/** @returns {never} */
function fail(/** @type {string} */ reason) {
  progress(reason);
  process.exit(1);
}
