/**
 * Open loop: requests leave at a fixed rate whether or not the earlier ones were answered, so a slow relay cannot hide
 * its queue. Prints { requests, failed, medianMs }.
 *
 *   node rate.mjs '{ "port": 8080, "headers": {}, "perSecond": 200, "seconds": 3 }'
 */
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { median } from "../harness/statistics.mjs";
import { CHAT_PATH, chatBody } from "./chat.mjs";

const { port, headers, perSecond, seconds } = JSON.parse(process.argv[2] ?? "{}");
const UNMEASURED = 50; // the first requests open the connections

const body = Buffer.from(chatBody());
const agent = new http.Agent({ keepAlive: true, maxSockets: 256 });
const options = {
  host: "127.0.0.1",
  port,
  path: CHAT_PATH,
  method: "POST",
  agent,
  headers: { "content-type": "application/json", "content-length": body.length, ...headers },
};
/** @type {number[]} */
const latenciesMs = [];
let failed = 0;

/** @returns {Promise<void>} */
function request() {
  return new Promise((resolve) => {
    const startedAt = performance.now();
    const finish = (/** @type {boolean} */ well) => {
      if (well) latenciesMs.push(performance.now() - startedAt);
      else failed++;
      resolve();
    };
    const outgoing = http.request(options, (response) => {
      response.resume();
      response.on("end", () => finish(response.statusCode === 200));
      response.on("error", () => finish(false));
    });
    outgoing.setTimeout(10_000, () => outgoing.destroy(new Error("no answer in 10 s")));
    outgoing.on("error", () => finish(false));
    outgoing.end(body);
  });
}

const total = perSecond * seconds;
const startedAt = performance.now();
const requests = [];
while (requests.length < total) {
  const due = Math.min(total, Math.floor(((performance.now() - startedAt) / 1000) * perSecond) + 1);
  while (requests.length < due) requests.push(request());
  await sleep(1);
}
await Promise.all(requests);
agent.destroy();
console.log(JSON.stringify({ requests: total, failed, medianMs: median(latenciesMs.slice(UNMEASURED)) }));
