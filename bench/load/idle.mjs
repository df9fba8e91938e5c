/**
 * Viewers that are there and hear nothing: what they hold in the server. Prints { requests, failed, idleKiB, idleHeldKiB }.
 *
 *   node idle.mjs '{ "port": 8080, "pid": 1, "alive": "/health", "file": "…", "path": "/chat/stream?id=…", "headers": {}, "viewers": 5000 }'
 */
import { setTimeout as sleep } from "node:timers/promises";
import { collectedMiB } from "./collected.mjs";
import { Crowd } from "./crowd.mjs";

const { port, pid, alive, file, path, headers, viewers } = JSON.parse(process.argv[2] ?? "{}");
const WARM = 500;
const SETTLE_MS = 1_500;

await open(WARM).then(close); // compiled code, caches and pools are nobody's in particular
const before = await collectedMiB({ port, pid, alive, file });
const crowd = await open(viewers);
await sleep(SETTLE_MS);
const withThem = await collectedMiB({ port, pid, alive, file });
const failed = crowd.gone;
await close(crowd);
const each = (/** @type {"residentMiB" | "heldMiB"} */ what) => ((withThem[what] - before[what]) * 1024) / viewers;
console.log(JSON.stringify({ requests: WARM + viewers, failed, idleKiB: each("residentMiB"), idleHeldKiB: each("heldMiB") }));

async function open(/** @type {number} */ size) {
  const crowd = new Crowd();
  await crowd.open({ port, path, headers }, size);
  return crowd;
}

async function close(/** @type {Crowd} */ crowd) {
  crowd.close();
  await sleep(SETTLE_MS);
}
