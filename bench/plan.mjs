/**
 * What a day of use asks of the store, of Redis and of functions, counted through the tests' bridges to Neon and Upstash, and
 * what that costs at Neon, Upstash and Google by the prices of report/prices.mjs. About four minutes.
 *
 *   node bench/plan.mjs [--rounds=5] [--per-day=1000] [--jsonl | --markdown] [--entry=FILE]
 *
 * Needs redis-server, and a Postgres server: BENCH_POSTGRES_URL, or one that is installed. Nothing leaves this machine.
 */
import fs from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { countPlan } from "./parts/plan.mjs";
import { openChatPeer } from "./peers/chat.mjs";
import { startNeon } from "./peers/neon.mjs";
import { startRedis, startUpstash, whyNoRedis } from "./peers/redis.mjs";
import { postgresStore } from "./peers/start.mjs";
import { PROJECT_FOLDER, Testbed } from "./peers/testbed.mjs";
import { chatVersions, describeMachine } from "./report/machine.mjs";
import { countCells, monthCells, monthOf } from "./report/plan.mjs";
import { INSTANCE, PRICES } from "./report/prices.mjs";
import { alignedTable, markdownTable } from "./report/print.mjs";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    "per-day": { type: "string", default: "1000" },
    jsonl: { type: "boolean", default: false },
    markdown: { type: "boolean", default: false },
    entry: { type: "string", default: path.join(PROJECT_FOLDER, "dist/local/main.mjs") },
  },
});
const rounds = positive("rounds", values.rounds);
const perDay = positive("per-day", values["per-day"]);
const entry = path.resolve(values.entry);
if (!fs.existsSync(entry)) fail(`${entry} is not built: node build.mjs local`);
const noRedis = whyNoRedis();
if (noRedis !== null) fail(noRedis);

const testbed = new Testbed();
try {
  await testbed.startUpstream();
  const store = await postgresStore(testbed);
  if (store === null) fail(testbed.leftOut.join("\n"));
  const neon = await startNeon(testbed, store.databaseUrl);
  const upstash = await startUpstash(testbed, await startRedis(testbed, "redis"));
  const env = {
    NEON_ENDPOINT: neon.endpoint,
    UPSTASH_REDIS_REST_URL: upstash.url,
    UPSTASH_REDIS_REST_TOKEN: upstash.token,
  };
  const peer = await openChatPeer(testbed, { entry }, { name: "plan", ...store, env });
  report(await countPlan({ peer, neon, upstash }, rounds));
} finally {
  await testbed.stop();
}

function report(/** @type {import("./parts/plan.mjs").Counted[]} */ counted) {
  const months = counted.map((each) => monthOf(each, perDay));
  if (values.jsonl) {
    const machine = describeMachine({ versions: chatVersions(testbed.postgresVersion), pinned: testbed.cpus.proxy !== null });
    const records = [
      { kind: "machine", ...machine },
      { kind: "prices", ...PRICES, instance: INSTANCE },
      ...counted.map((each) => ({ kind: "count", ...each })),
      ...months.map((month) => ({ kind: "month", perDay, ...month })),
    ];
    console.log(records.map((record) => JSON.stringify(record)).join("\n"));
    return;
  }
  const table = values.markdown ? markdownTable : alignedTable;
  const sources = Object.entries(PRICES).map(([name, { source, read }]) => `${name}: ${source} (${read})`);
  const title = `${perDay.toLocaleString("en")} a day, in dollars a month`;
  console.log([table(countCells(counted)), title, table(monthCells(months)), sources.join("\n")].join("\n\n"));
}

function positive(/** @type {string} */ name, /** @type {string} */ text) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) fail(`--${name} is a whole number above 0`);
  return value;
}

/** @returns {never} */
function fail(/** @type {string} */ reason) {
  process.stderr.write(`plan: ${reason}\n`);
  process.exit(1);
}
