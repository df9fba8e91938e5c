/**
 * The benchmark of chats: viewers, prompts, stops and what they cost, beside run.mjs, which is about `/v1`. See README.md here.
 *
 *   node bench/chat.mjs [--rounds=5] [--only=sqlite] [--parts=fanout,stop] [--jsonl] [--write=no]
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { watchOthers } from "./harness/accounting.mjs";
import { readOptions } from "./harness/options.mjs";
import { Samples } from "./harness/samples.mjs";
import { CHAT_PARTS } from "./parts/chat.mjs";
import { openChatPeer } from "./peers/chat.mjs";
import { postgresStore, sqliteStore } from "./peers/start.mjs";
import { PROJECT_FOLDER, Testbed } from "./peers/testbed.mjs";
import { buildChatRows } from "./report/chat-rows.mjs";
import { writeChatSection } from "./report/document.mjs";
import { chatVersions, circumstances, describeMachine } from "./report/machine.mjs";
import { alignedTable, jsonLines, medianCells, rowCells } from "./report/print.mjs";

const STORES = ["sqlite", "postgres"];
const COLUMNS = ["direct", "naive", "sqlite", "postgres", "redis", "upstash"];
const options = optionsOrFail();
const entry = path.resolve(options.entry);
const samples = new Samples();
const startedAt = performance.now();
/** @type {string[]} */
const remarks = [];
/** @type {string[]} */
const wrong = [];

if (!fs.existsSync("/proc/self/schedstat")) fail("the bench reads CPU time from /proc and runs on Linux only");
if (!fs.existsSync(entry)) fail(`${entry} is not built: node build.mjs local`);

const testbed = new Testbed();
try {
  await testbed.startUpstream();
  const stores = await openStores();
  remarks.push(...testbed.leftOut, ...circumstances(testbed));
  const othersPercent = watchOthers(os.availableParallelism());
  const stage = { testbed, entry, rounds: options.rounds, stores, samples, remarks, wrong };
  for (const [name, measure] of Object.entries(CHAT_PARTS)) {
    if (!options.parts.has(name)) continue;
    const partStartedAt = performance.now();
    await measure(stage);
    progress(`${name} took ${seconds(partStartedAt)} s`);
  }
  for (const { name, requests, failed } of testbed.peers) {
    if (failed > 0) wrong.push(`${name}: ${failed} of ${requests} requests FAILED`);
  }
  remarks.push(`other processes used ${othersPercent().toFixed(0)} % of the machine's CPU time during the run`, ...wrong);
} finally {
  await testbed.stop();
}
report();
process.exitCode = wrong.length > 0 ? 1 : 0;

async function openStores() {
  const stores = [];
  for (const name of STORES.filter((each) => options.peers.has(each))) {
    const store = name === "sqlite" ? sqliteStore(testbed, "proxy") : await postgresStore(testbed);
    if (store !== null) stores.push(await openChatPeer(testbed, { entry }, { name, ...store }));
  }
  return stores;
}

function report() {
  const rows = buildChatRows(samples);
  const { postgresVersion, cpus } = testbed;
  const machine = describeMachine({ versions: chatVersions(postgresVersion), pinned: cpus.proxy !== null });
  const cells = rowCells(rows);
  const measured = new Set(samples.all().map(({ peer }) => peer));
  const medians = medianCells(
    samples,
    COLUMNS.filter((name) => measured.has(name)),
  );
  if (options.jsonl) {
    console.log(jsonLines(machine, rows, samples, remarks));
  } else {
    const judged = rows.filter(({ reached }) => reached !== null);
    console.log([alignedTable(cells), alignedTable(medians), remarks.join("\n")].filter(Boolean).join("\n\n"));
    const reached = judged.filter((row) => row.reached).length;
    console.log(`\n${reached} of ${judged.length} targets reached, ${seconds(startedAt)} s in all`);
  }
  if (options.write !== null) {
    writeChatSection(options.write, { machine, rounds: options.rounds, rows: cells, medians, remarks });
    progress(`wrote ${options.write}`);
  }
}

function optionsOrFail() {
  const document = path.join(PROJECT_FOLDER, "docs/benchmarks.md");
  const entry = path.join(PROJECT_FOLDER, "dist/local/main.mjs");
  try {
    return readOptions(process.argv.slice(2), { document, entry, peers: STORES, parts: Object.keys(CHAT_PARTS) });
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
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
