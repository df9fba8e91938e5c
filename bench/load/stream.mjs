/**
 * Many streamed chats side by side. Prints { requests, failed, chunks, firstByteMs, chunkDelayMs }: the medians of the
 * time from the request to its first chunk, and from the upstream's writing a chunk to its being read here.
 *
 *   node stream.mjs '{ "port": 8080, "headers": {}, "concurrent": 50, "streams": 100, "chunks": 50, "gapMs": 20 }'
 */
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { median } from "../harness/statistics.mjs";
import { CHAT_PATH, chatBody, modelName } from "./chat.mjs";

const { port, headers, concurrent, streams, chunks, gapMs } = JSON.parse(process.argv[2] ?? "{}");

const body = Buffer.from(chatBody({ model: modelName({ chunks, gapMs }), stream: true }));
const agent = new http.Agent({ keepAlive: true, maxSockets: concurrent });
const options = {
  host: "127.0.0.1",
  port,
  path: CHAT_PATH,
  method: "POST",
  agent,
  headers: { "content-type": "application/json", "content-length": body.length, ...headers },
};
/** @type {number[]} */
const firstByteMs = [];
/** @type {number[]} */
const chunkDelayMs = [];
let failed = 0;

/** @returns {Promise<void>} */
function readStream() {
  return new Promise((resolve) => {
    const startedNs = process.hrtime.bigint();
    let read = 0;
    let unfinishedLine = "";
    let complete = false;
    const finish = () => {
      if (read !== chunks || !complete) failed++;
      resolve();
    };
    const outgoing = http.request(options, (response) => {
      response.setEncoding("latin1");
      response.on("data", (piece) => {
        const nowNs = process.hrtime.bigint();
        const text = unfinishedLine + piece;
        const end = text.lastIndexOf("\n") + 1;
        unfinishedLine = text.slice(end);
        for (const [, writtenNs] of text.slice(0, end).matchAll(/" t(\d+)"/g)) {
          if (read++ === 0) firstByteMs.push(milliseconds(nowNs - startedNs));
          chunkDelayMs.push(milliseconds(nowNs - BigInt(writtenNs ?? 0)));
        }
        complete ||= text.includes("data: [DONE]");
      });
      response.on("end", finish);
      response.on("error", finish);
    });
    outgoing.setTimeout(20_000, () => outgoing.destroy(new Error("no byte in 20 s")));
    outgoing.on("error", finish);
    outgoing.end(body);
  });
}

function milliseconds(/** @type {bigint} */ nanoseconds) {
  return Number(nanoseconds) / 1e6;
}

const streamMs = chunks * gapMs;
let left = streams;
async function reader(/** @type {number} */ place) {
  await sleep((streamMs / concurrent) * place); // spread out, so that first bytes do not come in one burst
  while (left-- > 0) await readStream();
}
await Promise.all(Array.from({ length: concurrent }, (_, place) => reader(place)));
agent.destroy();
const medians = { firstByteMs: median(firstByteMs), chunkDelayMs: median(chunkDelayMs) };
console.log(JSON.stringify({ requests: streams, failed, chunks: chunkDelayMs.length, ...medians }));
