/** The stage of a run: a temporary folder, the upstream, and the peers that were started, each with its CPU. */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { freePort } from "../harness/http.mjs";
import { cpuPlan, start, untilServing } from "../harness/processes.mjs";

/** @typedef {import("../harness/processes.mjs").Running} Running */

/**
 * @typedef {object} Peer
 * @property {string} name
 * @property {number} port
 * @property {Record<string, string>} headers  what its clients send
 * @property {Running | null} running  null for the upstream asked directly
 * @property {string} databaseUrl  proxy-gpt's, else empty
 * @property {number | null} databasePid  of a database server that was started for the run
 * @property {number} requests  sent to it so far
 * @property {number} failed
 */

export const BENCH_FOLDER = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
export const PROJECT_FOLDER = path.dirname(BENCH_FOLDER);

export class Testbed {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "proxy-gpt-bench-"));
  cpus = cpuPlan(os.availableParallelism());
  upstreamPort = 0;
  /** @type {Peer[]} */
  peers = [];
  /** One line per peer that could not take part. @type {string[]} */
  leftOut = [];
  /** @type {string | null} */
  postgresVersion = null;

  /** @type {(() => Promise<void>)[]} */
  #stops = [];
  #removeFolder = () => fs.rmSync(this.folder, { recursive: true, force: true });

  constructor() {
    process.once("exit", this.#removeFolder);
  }

  async startUpstream() {
    this.upstreamPort = await freePort();
    const args = [path.join(BENCH_FOLDER, "load/upstream.mjs"), String(this.upstreamPort)];
    const running = this.launch({ name: "upstream", command: process.execPath, args, cpu: this.cpus.load });
    await untilServing(running, { port: this.upstreamPort, path: "/" });
  }

  /**
   * Starts a process that ends with the testbed, on the proxy's CPU unless told.
   * @param {{ name: string, command: string, args: string[], env?: Record<string, string>, cpu?: number | null }} options
   */
  launch(options) {
    const logFile = path.join(this.folder, `${options.name}.log`);
    const running = start({ logFile, cwd: this.folder, cpu: this.cpus.proxy, ...options });
    this.onStop(running.stop);
    return running;
  }

  /**
   * Takes the peer in as soon as it serves.
   * @param {Partial<Peer> & { name: string, port: number }} peer
   * @param {string} [readyPath]
   */
  async join(peer, readyPath = "/") {
    if (peer.running) await untilServing(peer.running, { port: peer.port, path: readyPath });
    const joined = { headers: {}, running: null, databaseUrl: "", databasePid: null, requests: 0, failed: 0, ...peer };
    this.peers.push(joined);
    return joined;
  }

  onStop(/** @type {() => Promise<void>} */ stop) {
    this.#stops.push(stop);
  }

  async stop() {
    for (const stop of this.#stops.splice(0).reverse()) await stop();
    this.#removeFolder();
    process.off("exit", this.#removeFolder);
  }
}
