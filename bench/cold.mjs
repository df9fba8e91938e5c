/**
 * Cold starts: the CPU time of each built function from its process's beginning to its first answer, against a hello in the same
 * bundled functions-framework, interleaved. Twice for each: the greeting, for which nothing but the settings is looked at, and the
 * first answer for which the whole of the function is loaded. No store is asked.
 *
 *   npm run build && node bench/cold.mjs [--rounds=7] [--node=PATH] [--jsonl] [--write=no]
 *
 * Every lane but the plain hello begins with what was kept of a start before, as a deployed function's build keeps it.
 */
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { FUNCTIONS } from "../build/functions.mjs";
import { cpuSecondsSince, residentMiB, watchOthers } from "./harness/accounting.mjs";
import { call, freePort } from "./harness/http.mjs";
import { run, start } from "./harness/processes.mjs";
import { Samples } from "./harness/samples.mjs";
import { pairedRatios, rotated, spread } from "./harness/statistics.mjs";
import { PROJECT_FOLDER } from "./peers/testbed.mjs";
import { writeColdSection } from "./report/document.mjs";
import { describeMachine } from "./report/machine.mjs";
import { alignedTable } from "./report/print.mjs";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "7" },
    node: { type: "string", default: process.execPath },
    jsonl: { type: "boolean", default: false },
    write: { type: "string", default: path.join(PROJECT_FOLDER, "docs/benchmarks.md") },
  },
});
const TARGET = 1.5;
const HELLO = "hello";
/** The same, for which the framework's bundle is compiled as it starts. */
const PLAIN = "plain hello";
const NOTHING_BEFORE = new Map();
const version = execFileSync(options.node, ["--version"], { encoding: "utf8" }).trim().slice(1);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "proxy-gpt-cold-"));
process.once("exit", () => fs.rmSync(folder, { recursive: true, force: true }));
const major = Number.parseInt(version, 10);
/** What a function is given in the cloud; nothing of it is asked. */
const settings = {
  NODE_ENV: "production",
  DB_ADDRESS: "postgresql://nobody@nowhere.neon.tech/nothing",
  UPSTASH_REDIS_REST_URL: "https://nowhere.invalid",
  UPSTASH_REDIS_REST_TOKEN: "none",
  API_KEY: "none",
};

fs.writeFileSync(path.join(folder, "hello.cjs"), `exports.${HELLO} = (_, res) => res.send("Hello, World!");\n`);
const samples = new Samples();
const othersPercent = watchOthers(os.availableParallelism());
const lanes = [
  ...[PLAIN, HELLO, ...FUNCTIONS].map((name) => ({ name, metric: "greeting", path: "/" })),
  ...FUNCTIONS.map((name) => ({ name, metric: "loaded", path: "/nowhere" })),
];
for (const name of FUNCTIONS) await run(options.node, [path.join(PROJECT_FOLDER, "dist", name, "warm.cjs")]);
for (let round = 0; round < Number(options.rounds); round++) {
  for (const lane of rotated(lanes, round)) samples.add(lane.name, round, await measure(lane));
  process.stderr.write(`bench: round ${round + 1} of ${options.rounds}\n`);
}
report();

async function measure(/** @type {{ name: string, metric: string, path: string }} */ { name, metric, path: asked }) {
  const { running, port } = await begin(name);
  const wanted = metric === "greeting" ? 200 : 404;
  try {
    for (;;) {
      const answer = await call({ port, path: asked }).catch(() => null);
      if (answer?.status === wanted) break;
      if (answer || running.ended()) throw new Error(`${name} answered ${answer?.status ?? "nothing"} to ${asked}`);
      await sleep(2);
    }
    return { [`${metric}Ms`]: cpuSecondsSince(running.pid, NOTHING_BEFORE) * 1_000, [`${metric}MiB`]: residentMiB(running.pid) };
  } finally {
    await running.stop();
  }
}

async function begin(/** @type {string} */ name) {
  const isHello = name === HELLO || name === PLAIN;
  const target = isHello ? HELLO : name;
  const built = path.join(PROJECT_FOLDER, "dist", isHello ? "user" : name);
  const framework = name === PLAIN ? "framework/bundle.cjs" : "framework/main.cjs";
  const source = isHello ? path.join(folder, "hello.cjs") : path.join(built, "index.cjs");
  const port = /** @type {number} */ (await freePort());
  const running = start({
    name,
    command: options.node,
    args: [path.join(built, framework), `--target=${target}`, `--source=${source}`],
    logFile: path.join(folder, `${name}.log`),
    cwd: folder,
    env: { ...settings, K_SERVICE: target, PORT: String(port) },
  });
  return { running, port };
}

function report() {
  const hello = samples.get(HELLO, "greetingMs");
  const plain = samples.get(PLAIN, "greetingMs");
  const rows = FUNCTIONS.map((name) => {
    const [greeting, loaded] = ["greeting", "loaded"].map((metric) => ({
      ms: spread(samples.get(name, `${metric}Ms`)).median,
      ratio: spread(pairedRatios(samples.get(name, `${metric}Ms`), hello)),
      plain: spread(pairedRatios(samples.get(name, `${metric}Ms`), plain)),
      mib: spread(samples.get(name, `${metric}MiB`)).median,
    }));
    return { name, greeting, loaded };
  });
  const ratio = (/** @type {any} */ { median, min, max }) => `${median.toFixed(2)} × (${min.toFixed(2)}..${max.toFixed(2)})`;
  const reached = (/** @type {any} */ { plain }) => (plain.median <= TARGET ? "yes" : "NO");
  const heading = [
    ...["function", "greeting, CPU", "plain hello's", `target ${TARGET} ×`, "hello's"],
    ...["all loaded, CPU", "plain hello's", `target ${TARGET} ×`, "hello's", "resident"],
  ];
  const cells = rows.map(({ name, greeting, loaded }) => [
    name,
    ...[greeting, loaded].flatMap((it) => [`${it?.ms.toFixed(0)} ms`, ratio(it?.plain), reached(it), ratio(it?.ratio)]),
    `${loaded?.mib.toFixed(0)} MiB`,
  ]);
  const remarks = [
    ...[PLAIN, HELLO].map((name) => {
      const [ms, mib] = ["greetingMs", "greetingMiB"].map((metric) => spread(samples.get(name, metric)).median.toFixed(0));
      return `${name}: ${ms} ms, ${mib} MiB`;
    }),
    `Node ${version}`,
    `other processes used ${othersPercent().toFixed(0)} % of the machine's CPU time during the run`,
  ];
  if (options.jsonl) for (const row of rows) console.log(JSON.stringify({ kind: "cold", node: version, ...row }));
  else console.log(`${alignedTable([heading, ...cells])}\n\n${remarks.join("\n")}`);
  if (options.write === "no") return;
  const machine = describeMachine({ versions: {}, pinned: false });
  writeColdSection(options.write, { machine, rounds: Number(options.rounds), cells: [heading, ...cells], remarks, major });
}
