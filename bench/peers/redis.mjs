/** A Redis of its own for the run, what it is asked, and Upstash's REST protocol in front of it. */
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";
import { Redis } from "ioredis";
import { freePort } from "../harness/http.mjs";
import { exists, lastLines } from "../harness/processes.mjs";
import { PROJECT_FOLDER } from "./testbed.mjs";

/** @typedef {import("./testbed.mjs").Testbed} Testbed */

/** Whether this machine can give the run a Redis at all; if not, why. @returns {string | null} */
export function whyNoRedis() {
  return exists("redis-server") ? null : "redis-server is not installed (apt-get install redis-server)";
}

/** @returns {Promise<string>} its address */
export async function startRedis(/** @type {Testbed} */ testbed, /** @type {string} */ name) {
  const port = await freePort();
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", testbed.folder];
  const running = testbed.launch({ name, command: "redis-server", args, cpu: testbed.cpus.load });
  const url = `redis://127.0.0.1:${port}`;
  for (let attempt = 0; attempt < 100 && !running.ended(); attempt++) {
    if (await answers(url)) return url;
    await sleep(50);
  }
  throw new Error(`Redis did not start:\n${lastLines(running.logFile)}`);
}

/**
 * Notes every command that clients send, and apart from them what scripts call, until it is closed.
 * @param {string} url
 * @returns {Promise<{ sent: string[], inScripts: string[], stillCounts: () => Promise<void>, close: () => void }>}
 */
export async function watchCommands(url) {
  const redis = new Redis(url, { disableClientInfo: true });
  const monitor = await redis.monitor();
  /** @type {string[]} */
  const sent = [];
  /** @type {string[]} */
  const inScripts = [];
  monitor.on("monitor", (_time, [name], source) => (source === "lua" ? inScripts : sent).push(String(name).toLowerCase()));
  const close = () => {
    monitor.disconnect();
    redis.disconnect();
  };
  const stillCounts = async () => {
    const before = sent.length;
    await redis.ping();
    for (let attempt = 0; attempt < 100 && sent.length === before; attempt++) await sleep(20);
    if (sent.length === before) throw new Error("MONITOR told nothing of a PING");
  };
  return { sent, inScripts, stillCounts, close };
}

/**
 * The bridge of the tests, bundled for this run: it notes each command that Upstash would bill.
 * @param {Testbed} testbed
 * @param {string} redisUrl
 * @returns {Promise<{ url: string, token: string, commands: string[][] }>}
 */
export async function startUpstash(testbed, redisUrl) {
  const outfile = path.join(testbed.folder, "upstash-bridge.mjs");
  await build({
    entryPoints: [path.join(PROJECT_FOLDER, "test/bridge/upstash.ts")],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    logLevel: "warning",
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
  });
  const { startUpstashBridge } = await import(pathToFileURL(outfile).href);
  const bridge = await startUpstashBridge(redisUrl);
  testbed.onStop(() => bridge.close());
  return bridge;
}

async function answers(/** @type {string} */ url) {
  const redis = new Redis(url, { lazyConnect: true, retryStrategy: null, disableClientInfo: true });
  redis.on("error", () => {});
  try {
    await redis.connect();
    return (await redis.ping()) === "PONG";
  } catch {
    return false;
  } finally {
    redis.disconnect();
  }
}
