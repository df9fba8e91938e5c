import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { cleanEnvironment } from "../harness/processes.mjs";
import { portkeyVersion } from "../peers/install.mjs";
import { productVersion } from "../peers/product.mjs";
import { BENCH_FOLDER, PROJECT_FOLDER } from "../peers/testbed.mjs";

/**
 * Where and with what a run was made.
 * @param {{ postgresVersion: string | null, pinned: boolean }} run
 */
export function describeMachine({ postgresVersion, pinned }) {
  const undici = JSON.parse(fs.readFileSync(path.join(PROJECT_FOLDER, "node_modules/undici/package.json"), "utf8"));
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
      undici: undici.version,
      "Portkey gateway": portkeyVersion(BENCH_FOLDER),
      nginx: versionFrom("nginx", /nginx\/([\d.]+)/),
      wrk: versionFrom("wrk", /wrk \S*?([\d.]+)/),
      Postgres: postgresVersion,
    },
  };
}

/** `-v` prints to standard error, and wrk calls that a failure. */
function versionFrom(/** @type {string} */ command, /** @type {RegExp} */ pattern) {
  const printed = execFileSync("sh", ["-c", `${command} -v 2>&1 || true`], { env: cleanEnvironment(), encoding: "utf8" });
  return pattern.exec(printed)?.[1] ?? null;
}
