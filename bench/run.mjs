/**
 * The benchmark of `/v1`: proxy-gpt against a bare relay, nginx and Portkey's gateway, in interleaved rounds. See README.md here.
 *
 *   node bench/run.mjs [--rounds=5] [--seconds=2] [--only=relay,sqlite] [--parts=closed,rate] [--jsonl] [--write=no]
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { peakResidentMiB, residentMiB, watchOthers } from "./harness/accounting.mjs";
import { readOptions } from "./harness/options.mjs";
import { exists } from "./harness/processes.mjs";
import { Samples } from "./harness/samples.mjs";
import { ROUND_PARTS, warmUp } from "./parts/rounds.mjs";
import { measureStartup } from "./parts/startup.mjs";
import { countEvents, whyAuditUnreadable } from "./peers/product.mjs";
import { openTestbed, PRODUCT_NAMES, signIn } from "./peers/start.mjs";
import { PROJECT_FOLDER } from "./peers/testbed.mjs";
import { writeDocument } from "./report/document.mjs";
import { circumstances, describeMachine, relayVersions } from "./report/machine.mjs";
import { alignedTable, jsonLines, medianCells, rowCells } from "./report/print.mjs";
import { buildRows } from "./report/rows.mjs";

/** @typedef {import("./peers/testbed.mjs").Testbed} Testbed */

const PEER_NAMES = ["direct", "relay", "nginx", "portkey", "sqlite", "postgres"];
const PART_NAMES = ["closed", "rate", "stream", "hangup", "memory", "start"];
const options = optionsOrFail();
const samples = new Samples();
const startedAt = performance.now();
const measuresProduct = PRODUCT_NAMES.some((name) => options.peers.has(name));

requirePrograms();
const testbed = await openTestbed({ names: options.peers, entry: path.resolve(options.entry), progress });
/** @type {string[]} */
const remarks = [...testbed.leftOut, ...circumstances(testbed)];
let failures = 0;
try {
  for (const line of testbed.leftOut) progress(line);
  if (options.parts.has("memory")) await measureIdleMemory(testbed);
  await signIn(testbed);
  await measureRounds(testbed);
  if (options.parts.has("memory")) measureLoadedMemory(testbed);
  failures = await checkAnswers(testbed);
} finally {
  await testbed.stop();
}
if (options.parts.has("start") && options.peers.has("sqlite")) await measureStartups();
report();
process.exitCode = failures > 0 ? 1 : 0;

function optionsOrFail() {
  const document = path.join(PROJECT_FOLDER, "docs/benchmarks.md");
  const entry = path.join(PROJECT_FOLDER, "dist/local/main.mjs");
  try {
    return readOptions(process.argv.slice(2), { document, entry, peers: PEER_NAMES, parts: PART_NAMES, seconds: 2 });
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

function requirePrograms() {
  if (!fs.existsSync("/proc/self/schedstat")) fail("the bench reads CPU time from /proc and runs on Linux only");
  if (!exists("wrk")) fail("wrk makes the load and is not installed: apt-get install wrk nginx");
  if (measuresProduct && !fs.existsSync(options.entry)) {
    fail(`${options.entry} is not built: node build.mjs local (or leave proxy-gpt out: --only=direct,relay,nginx,portkey)`);
  }
}

async function measureIdleMemory(/** @type {Testbed} */ { peers }) {
  await sleep(1_000);
  for (const { name, running } of peers) if (running) samples.add(name, 0, { idleMiB: residentMiB(running.pid) });
}

function measureLoadedMemory(/** @type {Testbed} */ { peers }) {
  for (const { name, running } of peers) {
    if (running) samples.add(name, 0, { loadedMiB: residentMiB(running.pid), peakMiB: peakResidentMiB(running.pid) });
  }
}

async function measureRounds(/** @type {Testbed} */ open) {
  const parts = ROUND_PARTS.filter(({ name }) => options.parts.has(name));
  if (parts.length === 0 && !options.parts.has("memory")) return;
  progress(`measuring ${open.peers.map(({ name }) => name).join(", ")}`);
  for (const peer of open.peers) await warmUp(peer, open);
  const othersPercent = watchOthers(os.availableParallelism());
  for (let round = 0; round < options.rounds && parts.length > 0; round++) {
    const roundStartedAt = performance.now();
    for (const part of parts) {
      for (const peer of open.peers.filter(({ name }) => part.takes(name, round))) {
        samples.add(peer.name, round, await part.measure(peer, open, { seconds: options.seconds, round }));
      }
    }
    progress(`round ${round + 1} of ${options.rounds} took ${seconds(roundStartedAt)} s`);
  }
  remarks.push(`other processes used ${othersPercent().toFixed(0)} % of the machine's CPU time during the rounds`);
}

async function measureStartups() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "proxy-gpt-bench-start-"));
  try {
    for (let round = 0; round < options.rounds; round++) samples.add("sqlite", round, await measureStartup(folder, round));
    progress(`npm start measured ${options.rounds} times`);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/** A relay that fails, or an audit log with holes, is fast for the wrong reason. @returns {Promise<number>} what was wrong */
async function checkAnswers(/** @type {Testbed} */ { peers }) {
  let wrong = 0;
  for (const { name, port, headers, requests, failed, databaseUrl } of peers) {
    if (failed > 0) remarks.push(`${name}: ${failed} of ${requests} requests FAILED; its figures mean nothing`);
    wrong += failed;
    if (!PRODUCT_NAMES.includes(name)) continue;
    const rows = await countEvents(databaseUrl);
    const unreadable = await whyAuditUnreadable(port, headers);
    if (rows < requests) remarks.push(`${name}: ${requests} requests, but only ${rows} audit rows`);
    else remarks.push(`${name}: ${requests.toLocaleString("en")} requests answered, ${rows.toLocaleString("en")} audit rows`);
    if (unreadable !== null) remarks.push(`${name}: ${unreadable}`);
    wrong += Number(rows < requests) + Number(unreadable !== null);
  }
  return wrong;
}

function report() {
  const rows = buildRows(samples);
  const { postgresVersion, cpus } = testbed;
  const machine = describeMachine({ versions: relayVersions(postgresVersion), pinned: cpus.proxy !== null });
  const names = PEER_NAMES.filter((name) => options.peers.has(name));
  const medians = medianCells(samples, names);
  const cells = rowCells(rows);
  if (options.jsonl) {
    console.log(jsonLines(machine, rows, samples, remarks));
  } else {
    const withoutTarget = rows.filter(({ reached }) => reached === null).length;
    const reached = rows.filter((row) => row.reached).length;
    console.log([alignedTable(cells), alignedTable(medians), remarks.join("\n")].filter(Boolean).join("\n\n"));
    console.log(`\n${reached} of ${rows.length - withoutTarget} targets reached, ${seconds(startedAt)} s in all`);
  }
  if (options.write !== null) {
    writeDocument(options.write, { machine, rounds: options.rounds, seconds: options.seconds, rows: cells, medians, remarks });
    progress(`wrote ${options.write}`);
  }
}

function progress(/** @type {string} */ line) {
  process.stderr.write(`bench: ${line}\n`);
}

function seconds(/** @type {number} */ since) {
  return Math.round((performance.now() - since) / 1000);
}

/** @returns {never} */
function fail(/** @type {string} */ reason) {
  progress(reason);
  process.exit(1);
}
