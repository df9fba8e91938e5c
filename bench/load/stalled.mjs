/**
 * A viewer that never reads, while much is said: what it adds to the server's memory. Much is said before, so that what the
 * server keeps for everybody, and what its heap grows by anyway, is there by then. A second viewer reads, and comes back when it
 * is sent away. Prints { requests, failed, stalledMiB, stalledHeldMiB, missed }: frames that the one who reads did not get.
 *
 *   node stalled.mjs '{ "port": 8080, "pid": 1, "alive": "/health", "file": "…", "headers": {}, "path": "/chat/stream?id=…",
 *     "say": { "path": "/chat/prompt", "body": {}, "field": "prompt" }, "megabytes": 60 }'
 */
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { createAsker } from "./asker.mjs";
import { collectedMiB } from "./collected.mjs";
import { openViewer } from "./viewer.mjs";

const { port, pid, alive, file, headers, path, say, megabytes } = JSON.parse(process.argv[2] ?? "{}");
const FRAME_CHARACTERS = 16_000;
const AT_ONCE = 8;
const QUIET_MS = 500;
const SETTLE_MS = 300;

const framesOf = (/** @type {number} */ size) => Math.ceil((size * 1_000_000) / FRAME_CHARACTERS);
const text = "All of this is said to everybody, read or not. ".repeat(400).slice(0, FRAME_CHARACTERS - 12);
const asker = createAsker({ port, headers, connections: AT_ONCE });
/** What the reading viewer has got, by its own words. @type {Set<string>} */
const heard = new Set();
let lastId = "";
let heardAt = 0;
let failed = 0;
let over = false;

await read();
let requests = await flood("a", framesOf(megabytes));
const before = await collectedMiB({ port, pid, alive, file });
const stalled = await stall();
requests += await flood("b", framesOf(megabytes));
const withIt = await collectedMiB({ port, pid, alive, file });
over = true;
const stalledMiB = withIt.residentMiB - before.residentMiB;
const stalledHeldMiB = withIt.heldMiB - before.heldMiB;
console.log(JSON.stringify({ requests, failed, stalledMiB, stalledHeldMiB, missed: requests - heard.size }));
stalled.destroy();
asker.close();
process.exit(0);

/** Reads, and comes back with the last id when the stream ends. */
async function read() {
  const resume = lastId === "" ? {} : { "last-event-id": lastId };
  const { socket } = await openViewer({ port, path, headers: { ...headers, ...resume } }, (frame) => {
    heardAt = performance.now();
    lastId = /^id: (.*)$/m.exec(frame)?.[1] ?? lastId;
    const said = /no\. ([ab]\d+):/.exec(frame)?.[1];
    if (said !== undefined) heard.add(said);
  });
  socket.once("close", () => over || void read());
}

async function flood(/** @type {string} */ name, /** @type {number} */ frames) {
  let next = 0;
  const talk = async () => {
    for (let n = next++; n < frames; n = next++) {
      const said = `no. ${name}${String(n).padStart(6, "0")}: ${text}`;
      const { status } = await asker.ask(say.path, JSON.stringify({ ...say.body, ...nested(say.field, said) }));
      if (status !== 200 && status !== 204) failed++;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, talk));
  while (performance.now() - heardAt < QUIET_MS) await sleep(50);
  return frames;
}

/** The text where the server takes it: `prompt`, or `data.message.prompt`. */
function nested(/** @type {string} */ field, /** @type {string} */ value) {
  return field.split(".").reduceRight((inner, name) => ({ [name]: inner }), /** @type {any} */ (value));
}

/** @returns {Promise<net.Socket>} which has asked for the stream, and reads nothing of it */
async function stall() {
  const socket = net.connect({ port, host: "127.0.0.1" });
  socket.on("error", () => {});
  socket.pause();
  const lines = Object.entries({ host: "127.0.0.1", ...headers }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`GET ${path} HTTP/1.1\r\n${lines.join("")}\r\n`);
  await sleep(SETTLE_MS);
  return socket;
}
