/** How each peer is started. */
import fs from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { call, freePort } from "../harness/http.mjs";
import { exists, lastLines } from "../harness/processes.mjs";
import { CHAT_PATH, chatBody } from "../load/chat.mjs";
import { installPortkey } from "./install.mjs";
import { nginxConfiguration } from "./nginx.mjs";
import { openDatabase, whyNoPostgres } from "./postgres.mjs";
import { productEnvironment, signUp } from "./product.mjs";
import { BENCH_FOLDER, Testbed } from "./testbed.mjs";

/**
 * @typedef {object} StartOptions
 * @property {Set<string>} names
 * @property {string} entry  proxy-gpt's built main file
 * @property {string[]} [nodeOptions]  for proxy-gpt
 * @property {(line: string) => void} progress
 */

/** The peers that are proxy-gpt itself. */
export const PRODUCT_NAMES = ["sqlite", "postgres"];

/**
 * In the order in which they are measured: nearest to proxy-gpt the one that it is compared with most narrowly.
 * @type {Record<string, (testbed: Testbed, options: StartOptions) => Promise<void>>}
 */
const STARTERS = { direct, portkey, nginx, relay, sqlite, postgres };

/** @returns {Promise<Testbed>} with the upstream and every peer that was named and can take part */
export async function openTestbed(/** @type {StartOptions} */ options) {
  const testbed = new Testbed();
  try {
    await testbed.startUpstream();
    for (const [name, starter] of Object.entries(STARTERS)) if (options.names.has(name)) await starter(testbed, options);
    return testbed;
  } catch (error) {
    await testbed.stop();
    throw error;
  }
}

/** Gives every peer's clients their credential, and makes sure that it relays a chat at all. */
export async function signIn(/** @type {Testbed} */ { peers }) {
  for (const peer of peers) {
    try {
      const token = PRODUCT_NAMES.includes(peer.name) ? (await signUp(peer.port, "bench")).token : "sk-client";
      peer.headers = { authorization: `Bearer ${token}`, ...peer.headers };
      await tryChat(peer, false);
      await tryChat(peer, true);
    } catch (cause) {
      await sleep(200); // for the log
      const log = peer.running === null ? "" : `; its log ends:\n${lastLines(peer.running.logFile)}`;
      throw new Error(`${peer.name} cannot be measured${log}`, { cause });
    }
  }
}

async function tryChat(/** @type {import("./testbed.mjs").Peer} */ peer, /** @type {boolean} */ stream) {
  const headers = { "content-type": "application/json", ...peer.headers };
  const { status, text } = await call({ port: peer.port, path: CHAT_PATH, method: "POST", headers, body: chatBody({ stream }) });
  peer.requests++;
  if (status !== 200) throw new Error(`a chat (stream: ${stream}) was answered ${status}: ${text.slice(0, 300)}`);
  const ending = stream ? "data: [DONE]" : '"finish_reason":"stop"';
  if (!text.includes(ending)) throw new Error(`the whole answer was not passed on: ${text.slice(-300)}`);
}

async function direct(/** @type {Testbed} */ testbed) {
  await testbed.join({ name: "direct", port: testbed.upstreamPort });
}

async function portkey(/** @type {Testbed} */ testbed, /** @type {StartOptions} */ { progress }) {
  const server = await installPortkey(BENCH_FOLDER, progress);
  const port = await freePort();
  const preload = path.join(BENCH_FOLDER, "peers/bind-loopback.cjs");
  const args = ["-r", preload, server, `--port=${port}`, "--headless"];
  const env = { TRUSTED_CUSTOM_HOSTS: "127.0.0.1,localhost" };
  const running = testbed.launch({ name: "portkey", command: process.execPath, args, env });
  const upstream = `http://127.0.0.1:${testbed.upstreamPort}/v1`;
  const headers = { "x-portkey-provider": "openai", "x-portkey-custom-host": upstream };
  await testbed.join({ name: "portkey", port, running, headers });
}

async function nginx(/** @type {Testbed} */ testbed) {
  if (!exists("nginx")) {
    testbed.leftOut.push("nginx is left out: it is not installed (apt-get install nginx)");
    return;
  }
  const { folder, upstreamPort } = testbed;
  const port = await freePort();
  const configuration = path.join(folder, "nginx.conf");
  fs.writeFileSync(configuration, nginxConfiguration({ folder, port, upstreamPort }));
  const args = ["-c", configuration, "-e", path.join(folder, "nginx-error.log")];
  const running = testbed.launch({ name: "nginx", command: "nginx", args });
  await testbed.join({ name: "nginx", port, running });
}

async function relay(/** @type {Testbed} */ testbed) {
  const port = await freePort();
  const env = { PORT: String(port), UPSTREAM: `http://127.0.0.1:${testbed.upstreamPort}` };
  const args = [path.join(BENCH_FOLDER, "peers/relay.mjs")];
  const running = testbed.launch({ name: "relay", command: process.execPath, args, env });
  await testbed.join({ name: "relay", port, running });
}

async function sqlite(/** @type {Testbed} */ testbed, /** @type {StartOptions} */ options) {
  await startProduct(testbed, options, { name: "sqlite", ...sqliteStore(testbed, "proxy") });
}

async function postgres(/** @type {Testbed} */ testbed, /** @type {StartOptions} */ options) {
  const store = await postgresStore(testbed);
  if (store !== null) await startProduct(testbed, options, { name: "postgres", ...store });
}

/** @typedef {{ databaseUrl: string, databasePid: number | null }} Store */

/** @returns {Store} */
export function sqliteStore(/** @type {Testbed} */ { folder }, /** @type {string} */ name) {
  return { databaseUrl: `file:${path.join(folder, `${name}.db`)}`, databasePid: null };
}

/** @returns {Promise<Store | null>} null where this machine can give none, which the testbed then says */
export async function postgresStore(/** @type {Testbed} */ testbed) {
  const missing = whyNoPostgres();
  if (missing !== null) {
    testbed.leftOut.push(`proxy-gpt on Postgres is left out: ${missing}`);
    return null;
  }
  const database = await openDatabase({ cpu: testbed.cpus.database });
  testbed.onStop(database.stop);
  testbed.postgresVersion = database.version;
  return { databaseUrl: database.url, databasePid: database.pid };
}

/**
 * @param {Testbed} testbed
 * @param {Pick<StartOptions, "entry" | "nodeOptions">} options
 * @param {Store & { name: string, env?: Record<string, string> }} product `env`: besides what every one is told
 */
export async function startProduct(testbed, { entry, nodeOptions = [] }, { name, databaseUrl, databasePid, env: more = {} }) {
  const port = await freePort();
  const env = { ...productEnvironment({ port, upstreamPort: testbed.upstreamPort, databaseUrl }), ...more };
  const running = testbed.launch({ name, command: process.execPath, args: [...nodeOptions, entry, "start"], env });
  return testbed.join({ name, port, running, databaseUrl, databasePid }, "/health");
}
