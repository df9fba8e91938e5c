/** `npm start` to the first answer of /health, as somebody at a terminal waits for it: with npm, unpinned, nothing else running. */
import path from "node:path";
import { freePort } from "../harness/http.mjs";
import { start, untilServing } from "../harness/processes.mjs";
import { productEnvironment } from "../peers/product.mjs";
import { PROJECT_FOLDER } from "../peers/testbed.mjs";

/**
 * @param {string} folder  temporary
 * @param {number} round
 * @returns {Promise<{ firstStartMs: number, laterStartMs: number }>} with a database that is made, and with that database again
 */
export async function measureStartup(folder, round) {
  const databaseUrl = `file:${path.join(folder, `start-${round}.db`)}`;
  return { firstStartMs: await startOnce(folder, databaseUrl), laterStartMs: await startOnce(folder, databaseUrl) };
}

async function startOnce(/** @type {string} */ folder, /** @type {string} */ databaseUrl) {
  const port = await freePort();
  const since = performance.now();
  const running = start({
    name: "npm start",
    command: "npm",
    args: ["start"],
    logFile: path.join(folder, "npm-start.log"),
    cwd: PROJECT_FOLDER,
    env: { ...productEnvironment({ port, upstreamPort: await freePort(), databaseUrl }), npm_config_update_notifier: "false" },
  });
  try {
    return await untilServing(running, { port, path: "/health", everyMs: 5, since });
  } finally {
    await running.stop();
  }
}
