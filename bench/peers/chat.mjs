/** What chats are measured with: proxy-gpt with two people in it, and the naive server. */
import path from "node:path";
import { freePort } from "../harness/http.mjs";
import { signUp } from "./product.mjs";
import { startProduct } from "./start.mjs";
import { BENCH_FOLDER } from "./testbed.mjs";

/**
 * @typedef {import("./testbed.mjs").Peer} Peer
 * @typedef {import("./testbed.mjs").Testbed} Testbed
 * @typedef {import("../harness/processes.mjs").Running} Running
 * @typedef {{ userId: string, headers: Record<string, string> }} Person
 * @typedef {Peer & { running: Running, owner: Person, member: Person }} ChatPeer  the owner is the one who asks
 */

/**
 * @param {Testbed} testbed
 * @param {Parameters<typeof startProduct>[1]} options
 * @param {Parameters<typeof startProduct>[2]} product
 * @returns {Promise<ChatPeer>}
 */
export async function openChatPeer(testbed, options, product) {
  const peer = await startProduct(testbed, options, product);
  const owner = await person(peer.port, "owner");
  const member = await person(peer.port, "member");
  peer.headers = owner.headers;
  return Object.assign(peer, { owner, member, running: /** @type {Running} */ (peer.running) });
}

/**
 * Another instance on the same store, where the same people are signed in.
 * @param {Testbed} testbed
 * @param {Parameters<typeof startProduct>[1]} options
 * @param {Parameters<typeof startProduct>[2]} product
 * @param {ChatPeer} first
 * @returns {Promise<ChatPeer>}
 */
export async function openSecond(testbed, options, product, { owner, member, headers }) {
  const peer = await startProduct(testbed, options, product);
  return Object.assign(peer, { owner, member, headers, running: /** @type {Running} */ (peer.running) });
}

/**
 * @param {Testbed} testbed
 * @param {string[]} [nodeOptions]
 * @param {Record<string, string>} [env]
 * @returns {Promise<Peer & { running: Running }>}
 */
export async function openNaive(testbed, nodeOptions = [], env = {}) {
  const port = await freePort();
  const args = [...nodeOptions, path.join(BENCH_FOLDER, "peers/fanout.mjs")];
  const running = testbed.launch({ name: "naive", command: process.execPath, args, env: { ...env, PORT: String(port) } });
  return Object.assign(await testbed.join({ name: "naive", port, running }), { running });
}

/** @returns {Promise<Person>} */
async function person(/** @type {number} */ port, /** @type {string} */ username) {
  const { token, userId } = await signUp(port, username);
  return { userId, headers: { authorization: `Bearer ${token}` } };
}
