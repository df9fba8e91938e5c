/** The measurements that are repeated in every round, each over all the peers that take part in it, one after the other. */
import { median } from "../harness/statistics.mjs";
import { closedLoop } from "../load/closed.mjs";
import { PRODUCT_NAMES } from "../peers/start.mjs";
import { accounted, count, known, loaded } from "./measured.mjs";

/**
 * @typedef {import("../peers/testbed.mjs").Peer} Peer
 * @typedef {import("../peers/testbed.mjs").Testbed} Testbed
 */

/**
 * @typedef {object} Part
 * @property {string} name
 * @property {(peer: string, round: number) => boolean} takes
 * @property {(peer: Peer, testbed: Testbed, options: { seconds: number, round: number }) => Promise<Record<string, number>>} measure
 */

/** @type {Part[]} */
export const ROUND_PARTS = [closed(16), closed(64), rate(), stream(), hangup()];

/** JIT, connection pools and caches, before anything is measured. */
export async function warmUp(/** @type {Peer} */ peer, /** @type {Testbed} */ { folder, cpus }) {
  const common = { port: peer.port, headers: peer.headers, connections: 32, folder, cpu: cpus.load };
  let requests = 0;
  for (let pass = 0; pass < 3 && requests < 2_000; pass++) {
    requests += count(peer, await closedLoop({ ...common, seconds: 2 })).requests;
  }
  count(peer, await closedLoop({ ...common, seconds: 1, stream: true }));
}

/** @returns {Part} CPU per request and requests per second with so many connections that are never idle */
function closed(/** @type {number} */ connections) {
  return {
    name: "closed",
    takes: (peer) => connections > 16 || (peer !== "direct" && peer !== "nginx"),
    async measure(peer, { folder, cpus }, { seconds }) {
      const options = { port: peer.port, headers: peer.headers, connections, seconds, folder, cpu: cpus.load };
      const result = await accounted(peer, async () => count(peer, await closedLoop(options)));
      // wrk ends with a request under way on each connection: counted as served, which is generous to slow peers.
      const requests = result.requests + connections;
      return known({
        [`cpuUs@${connections}`]: (result.cpuSeconds / requests) * 1e6,
        [`databaseCpuUs@${connections}`]: (result.databaseSeconds / requests) * 1e6,
        [`perSecond@${connections}`]: result.perSecond,
        [`busyPercent@${connections}`]: (result.cpuSeconds / result.elapsedSeconds) * 100,
      });
    },
  };
}

/** @returns {Part} latency at a rate that every peer can sustain */
function rate() {
  return {
    name: "rate",
    takes: (peer) => peer !== "relay" && peer !== "nginx",
    async measure(peer, testbed) {
      const { medianMs } = await loaded("rate", peer, testbed, { perSecond: 200, seconds: 2 });
      return { "latencyMs@200/s": medianMs };
    },
  };
}

/** @returns {Part} 50 streams side by side, 50 chunks each, 20 ms apart */
function stream() {
  return {
    name: "stream",
    takes: (peer) => peer !== "nginx",
    async measure(peer, testbed) {
      const options = { concurrent: 50, streams: 100, chunks: 50, gapMs: 20 };
      const result = await accounted(peer, () => loaded("stream", peer, testbed, options));
      return known({
        firstByteMs: result.firstByteMs,
        chunkDelayMs: result.chunkDelayMs,
        cpuUsPerChunk: (result.cpuSeconds / result.chunks) * 1e6,
      });
    },
  };
}

/** @returns {Part} clients that leave; a peer that never aborts costs seconds, so it shows that once */
function hangup() {
  return {
    name: "hangup",
    takes: (peer, round) => PRODUCT_NAMES.includes(peer) || (peer !== "direct" && round === 0),
    async measure(peer, testbed, { round }) {
      /** @type {Record<string, number>} */
      const values = {};
      for (const phase of ["stream", "wait"]) {
        const options = { phase, streams: 20, upstreamPort: testbed.upstreamPort, run: `${peer.name}${round}` };
        const { abortedPercent, delaysMs } = await loaded("hangup", peer, testbed, options);
        values[`abortedPercent:${phase}`] = abortedPercent;
        values[`abortMedianMs:${phase}`] = median(delaysMs);
        values[`abortWorstMs:${phase}`] = delaysMs.length > 0 ? Math.max(...delaysMs) : Number.NaN;
      }
      return values;
    },
  };
}
