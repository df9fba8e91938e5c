/**
 * Clients that hang up: is the upstream's call aborted, and how long after? Phase `stream` hangs up after three chunks,
 * `wait` while the upstream has not answered yet. Prints { requests, failed, abortedPercent, delaysMs }.
 *
 *   node hangup.mjs '{ "port": 8080, "upstreamPort": 9100, "headers": {}, "phase": "stream", "streams": 20, "run": "a1" }'
 */
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { call } from "../harness/http.mjs";
import { CHAT_PATH, chatBody, modelName } from "./chat.mjs";

const { port, upstreamPort, headers, phase, streams, run } = JSON.parse(process.argv[2] ?? "{}");
const GIVE_UP_MS = 1_000; // streams and waits are longer, so a call seen to end by then was aborted

/** When each call was hung up, by its tag. @type {Map<string, bigint>} */
const hungUpNs = new Map();

/** @returns {Promise<void>} */
function hangUp(/** @type {number} */ place) {
  return new Promise((resolve) => {
    const tag = `${run}${phase}${place}`;
    const behaviour = phase === "wait" ? { chunks: 1, delayMs: 3_000 } : { chunks: 100, gapMs: 20 };
    const body = chatBody({ model: modelName({ ...behaviour, tag }), stream: true });
    const outgoing = http.request({
      host: "127.0.0.1",
      port,
      path: CHAT_PATH,
      method: "POST",
      agent: false,
      headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body), ...headers },
    });
    let over = false;
    const finish = (hungUp = false) => {
      if (over) return;
      over = true;
      if (hungUp) hungUpNs.set(tag, process.hrtime.bigint());
      outgoing.destroy();
      resolve();
    };
    let read = 0;
    outgoing.setTimeout(10_000, finish);
    outgoing.on("error", () => finish());
    outgoing.on("response", (response) => {
      response.setEncoding("latin1");
      response.on("error", () => finish());
      response.on("end", () => finish());
      response.on("data", (piece) => {
        read += piece.split('" t').length - 1;
        if (read >= 3) finish(true);
      });
    });
    outgoing.end(body);
    if (phase === "wait") setTimeout(() => finish(true), 300);
  });
}

async function upstreamStats() {
  const { text } = await call({ port: upstreamPort, path: "/stats" });
  return /** @type {{ open: number, aborts: { tag: string, atNs: string }[] }} */ (JSON.parse(text));
}

async function abortDelaysMs() {
  const { aborts } = await upstreamStats();
  const mine = aborts.filter(({ tag }) => hungUpNs.has(tag));
  return mine.map(({ tag, atNs }) => Number(BigInt(atNs) - (hungUpNs.get(tag) ?? 0n)) / 1e6);
}

await Promise.all(Array.from({ length: streams }, (_, place) => sleep(place * 7).then(() => hangUp(place))));
const deadline = performance.now() + GIVE_UP_MS;
let delaysMs = await abortDelaysMs();
while (delaysMs.length < streams && performance.now() < deadline) {
  await sleep(50);
  delaysMs = await abortDelaysMs();
}
const abortedPercent = (delaysMs.length / streams) * 100;
// Calls nobody waits for any more must not run into the next measurement.
for (let waited = 0; waited < 100 && (await upstreamStats()).open > 0; waited++) await sleep(100);
console.log(JSON.stringify({ requests: streams, failed: streams - hungUpNs.size, abortedPercent, delaysMs }));
