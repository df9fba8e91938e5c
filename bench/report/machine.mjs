import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { cleanEnvironment } from "../harness/processes.mjs";
import { portkeyVersion } from "../peers/install.mjs";
import { productVersion } from "../peers/product.mjs";
import { BENCH_FOLDER, PROJECT_FOLDER } from "../peers/testbed.mjs";

/** @typedef {import("../peers/testbed.mjs").Testbed} Testbed */

const TMPFS = 0x01021994; // statfs(2)

/**
 * Where and with what a run was made.
 * @param {{ versions: Record<string, string | null>, pinned: boolean }} run
 */
export function describeMachine({ versions, pinned }) {
  return {
    date: new Date().toISOString().slice(0, 10),
    cpu: os.cpus()[0]?.model.trim() ?? "unknown",
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    system: `${os.type()} ${os.release()}`,
    pinned,
    versions: {
      "proxy-gpt": productVersion(PROJECT_FOLDER),
      node: process.versions.node,
      ...versions,
    },
  };
}

/** Of what `/v1` is measured with. */
export function relayVersions(/** @type {string | null} */ postgresVersion) {
  const undici = JSON.parse(fs.readFileSync(path.join(PROJECT_FOLDER, "node_modules/undici/package.json"), "utf8"));
  return {
    undici: undici.version,
    "Portkey gateway": portkeyVersion(BENCH_FOLDER),
    nginx: versionFrom("nginx", /nginx\/([\d.]+)/),
    wrk: versionFrom("wrk", /wrk \S*?([\d.]+)/),
    Postgres: postgresVersion,
  };
}

/** Of what chats are measured with. */
export function chatVersions(/** @type {string | null} */ postgresVersion) {
  return { Postgres: postgresVersion, Redis: versionFrom("redis-server", /v=([\d.]+)/) };
}

/** What a reader has to know of how this machine was used. @returns {string[]} */
export function circumstances(/** @type {Testbed} */ { folder, cpus, peers }) {
  const inMemory = fs.statfsSync(folder).type === TMPFS;
  const sharedCpu =
    cpus.database !== null && cpus.database === cpus.load && peers.some(({ databasePid }) => databasePid !== null);
  return [
    ...(inMemory ? ["the databases lay in memory, which makes every commit cheap: set TMPDIR to a folder on a disk"] : []),
    ...(cpus.proxy === null ? ["nothing was pinned to a CPU: requests per second are not per core"] : []),
    ...(sharedCpu ? ["Postgres shared its CPU with load and upstream, which slows what is measured on Postgres"] : []),
  ];
}

/** `-v` prints to standard error, and wrk calls that a failure. */
function versionFrom(/** @type {string} */ command, /** @type {RegExp} */ pattern) {
  const printed = execFileSync("sh", ["-c", `${command} -v 2>&1 || true`], { env: cleanEnvironment(), encoding: "utf8" });
  return pattern.exec(printed)?.[1] ?? null;
}
