import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { residentMiB } from "../harness/accounting.mjs";
import { call } from "../harness/http.mjs";

/** Some memory is given back a little after it was freed. */
const TIMES = 3;
const SETTLE_MS = 300;

/**
 * What a server that was started with `collect.cjs` has of the machine's memory, and what of that is in use by JavaScript.
 * @param {{ port: number, pid: number, alive: string, file: string }} server `alive`: a path that it answers
 * @returns {Promise<{ residentMiB: number, heldMiB: number }>}
 */
export async function collectedMiB({ port, pid, alive, file }) {
  fs.rmSync(file, { force: true });
  for (let time = 0; time < TIMES; time++) {
    process.kill(pid, "SIGUSR2");
    await sleep(SETTLE_MS);
    await call({ port, path: alive }); // answered when it is done
  }
  return { residentMiB: residentMiB(pid), ...JSON.parse(fs.readFileSync(file, "utf8")) };
}
