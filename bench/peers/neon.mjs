/** Neon's SQL over HTTP in front of a Postgres of the run. */
import path from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";
import { PROJECT_FOLDER } from "./testbed.mjs";

/** @typedef {import("./testbed.mjs").Testbed} Testbed */

/**
 * The bridge of the tests, bundled for this run: it notes each request, which is one round trip.
 * @param {Testbed} testbed
 * @param {string} postgresUrl
 * @returns {Promise<{ endpoint: string, requests: { queries: string[], transaction: boolean }[] }>}
 */
export async function startNeon(testbed, postgresUrl) {
  const outfile = path.join(testbed.folder, "neon-bridge.mjs");
  await build({
    entryPoints: [path.join(PROJECT_FOLDER, "test/bridge/neon.ts")],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    external: ["pg-native"],
    logLevel: "warning",
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
  });
  const { startNeonBridge } = await import(pathToFileURL(outfile).href);
  const bridge = await startNeonBridge(postgresUrl);
  testbed.onStop(() => bridge.close());
  return bridge;
}
