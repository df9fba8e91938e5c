/**
 * The query plans of all that is done in a chat and of the lists, in a store with a chat of 100,000 messages, one of 100,000
 * messages off the record, and 100,000 chats of others: what SQLite and Postgres do for each statement, and how much of it.
 *
 *   node bench/plans.mjs [--store=sqlite|postgres] [--only=claim] [--messages=100000] [--others=100000]
 *
 * Postgres is TEST_POSTGRES_URL, where it is set; a database is made there and dropped. test/store/chats-scale.test.ts asserts
 * what is shown here.
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import pg from "pg";
import { PROJECT_FOLDER } from "./peers/testbed.mjs";

const { values } = parseArgs({
  options: {
    store: { type: "string" },
    only: { type: "string", default: "" },
    messages: { type: "string", default: "100000" },
    others: { type: "string", default: "100000" },
  },
});
if (values.store !== undefined && !["sqlite", "postgres"].includes(values.store)) fail("--store is sqlite or postgres");
const size = { messages: Number(values.messages), others: Number(values.others) };
if (!(size.messages >= 1_000) || !(size.others >= 300)) fail("there must be 1,000 messages and 300 other chats at least");

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "proxy-gpt-plans-"));
process.once("exit", () => fs.rmSync(folder, { recursive: true, force: true }));
const product = await bundle();
if (values.store !== "postgres") await showSqlite();
if (values.store !== "sqlite") {
  if (process.env.TEST_POSTGRES_URL) await showPostgres();
  else if (values.store === "postgres") fail("set TEST_POSTGRES_URL to a server on which a database may be made");
  else progress("no plans of Postgres: set TEST_POSTGRES_URL to a server on which a database may be made");
}

/** The repositories, the stores, and what the tests fill them with, as one module. */
async function bundle() {
  for (const part of ["node_modules", "schema"]) fs.symlinkSync(path.join(PROJECT_FOLDER, part), path.join(folder, part));
  const outfile = path.join(folder, "dist/plans/plans.mjs"); // two folders below the migrations, as every bundle
  const sources = ["hot", "many", "plans"].map((name) => `export * from "./test/store/${name}.ts";`);
  const stores = ["sqlite", "postgres"].map((name) => `export * from "./lib/store/${name}.ts";`);
  await build({
    stdin: {
      contents: [...sources, ...stores, 'export { freshDatabase } from "./test/support/postgres.ts";'].join("\n"),
      resolveDir: PROJECT_FOLDER,
    },
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    external: ["libsql", "pg"],
    logLevel: "warning",
  });
  return import(outfile);
}

/** What is shown: its title, and the work. */
function shown() {
  const { CHATS, inChat, LISTS } = product;
  const chats = [CHATS.young, CHATS.large, CHATS.quiet];
  const names = Object.keys(inChat(CHATS.young, size));
  const inChats = names.flatMap((name) => chats.map((chat) => ({ title: `${name}: ${chat}`, work: inChat(chat, size)[name] })));
  const lists = Object.entries(LISTS).map(([title, { work }]) => ({ title, work }));
  return [...lists, ...inChats].filter(({ title }) => title.includes(values.only));
}

async function showSqlite() {
  const file = path.join(folder, "proxy.db");
  const store = product.openSqlite(file);
  try {
    await store.migrate();
    progress("filling SQLite");
    await product.fill(store, "sqlite", size);
    console.log(`# SQLite: ${size.messages} messages in a chat, ${size.others} chats of others`);
    for (const { title, work } of shown()) {
      const statements = await product.statementsOf(store, "sqlite", work);
      const plans = statements.map((/** @type {{ sql: string }} */ it) => product.sqlitePlan(file, it));
      const { steps, scanned, sorted } = await product.sqliteCounts(store, work);
      console.log(`\n## ${title} (${steps} steps of the machine, ${scanned} rows of whole tables, ${sorted} sorts)`);
      for (const [i, { sql }] of statements.entries()) show(sql, "", plans[i]);
    }
  } finally {
    await store.close();
  }
}

async function showPostgres() {
  const database = await product.freshDatabase();
  const store = product.openPostgres(database.url);
  const client = new pg.Client({ connectionString: database.url });
  try {
    await client.connect();
    await store.migrate();
    progress("filling Postgres");
    await product.fill(store, "postgres", size);
    await client.query("vacuum analyze");
    console.log(`\n# Postgres: ${size.messages} messages in a chat, ${size.others} chats of others`);
    for (const { title, work } of shown()) {
      const statements = await product.statementsOf(store, "postgres", work);
      const plans = await product.postgresPlans(client, statements);
      const [rows, pages] = ["rows", "pages"].map((what) => sum(plans.map((/** @type {any} */ plan) => plan[what])));
      console.log(`\n## ${title} (${rows} rows, ${pages} pages)`);
      for (const [i, { sql }] of statements.entries())
        show(sql, ` (${plans[i].rows} rows, ${plans[i].pages} pages)`, plans[i].lines);
    }
  } finally {
    await client.end();
    await store.close();
    await database.drop();
  }
}

function show(/** @type {string} */ sql, /** @type {string} */ counts, /** @type {string[]} */ lines) {
  const text = sql.replace(/\s+/g, " ");
  console.log(`- ${text.length > 110 ? `${text.slice(0, 107)}...` : text}${counts}`);
  for (const line of lines) console.log(`    ${line}`);
}

function sum(/** @type {number[]} */ numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

function progress(/** @type {string} */ line) {
  process.stderr.write(`plans: ${line}\n`);
}

/** @returns {never} */
function fail(/** @type {string} */ reason) {
  progress(reason);
  process.exit(1);
}
