/** What each thing that people do asks of the store, of Redis and of a function: counted where it arrives, not reckoned. */
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { post } from "../harness/api.mjs";
import { call } from "../harness/http.mjs";
import { CHAT_PATH, chatBody, modelName } from "../load/chat.mjs";
import { Crowd } from "../load/crowd.mjs";
import { openViewer } from "../load/viewer.mjs";
import { billed, INSTANCE } from "../report/prices.mjs";

/**
 * @typedef {import("../peers/chat.mjs").ChatPeer} ChatPeer
 * @typedef {{ queries: string[], transaction: boolean }[]} NeonRequests
 * @typedef {object} Place  the product, and the two bridges that it asks
 * @property {ChatPeer} peer
 * @property {{ requests: NeonRequests }} neon
 * @property {{ commands: string[][] }} upstash
 * @typedef {object} Counted  of one, the mean of all that were counted
 * @property {string} what
 * @property {string} remark
 * @property {number} times
 * @property {number} trips  requests to the store, each one round trip
 * @property {number} statements
 * @property {number} commands  of Redis
 * @property {number} requests  to the function
 * @property {number} functionMs  by the log's own lines
 * @property {number} billedSeconds
 * @property {number} storeSeconds  within which it asks the store
 * @property {boolean} lasts  one comes after the other, rather than at any time of the day
 */

/** As redis.mjs has it: some 60 tokens a second. */
const GAP_MS = 16;
const LONG_TOKENS = 600;
/** What the upstream's short answer of 120 tokens takes at the same pace. */
const SHORT_MS = 2_000;
const QUIET_MS = 1_500;
const MINUTE_MS = 60_000;
/** How often those who watch are authorised again. */
const ROUND_MS = 15_000;

/** @returns {Promise<Counted[]>} */
export async function countPlan(/** @type {Place} */ place, /** @type {number} */ rounds) {
  const { peer } = place;
  const { id } = await post(peer, "/chat/create", {});
  const short = modelName({ chunks: 1, delayMs: SHORT_MS });
  const long = modelName({ chunks: LONG_TOKENS, gapMs: GAP_MS });
  const headers = { "content-type": "application/json" };
  const relay = async () => {
    const body = chatBody({ model: short });
    const { status, text } = await call({
      port: peer.port,
      path: CHAT_PATH,
      method: "POST",
      headers: { ...headers, ...peer.headers },
      body,
    });
    if (status !== 200) throw new Error(`${CHAT_PATH} answered ${status}: ${text.slice(0, 300)}`);
  };
  const people = { username: "signs-in", password: randomBytes(12).toString("hex") };
  await post(peer, "/user/signup", people);

  return [
    await count(
      place,
      { what: "a call of /v1", endpoint: "proxy.v1", remark: "an answer of 120 tokens, which takes the model 2 s" },
      rounds,
      relay,
    ),
    await count(place, { what: "a prompt", endpoint: "chat.prompt", remark: "the same in a chat, nobody watches" }, rounds, () =>
      post(peer, "/chat/prompt", { id, prompt: "Briefly, please.", model: short }),
    ),
    await countWatched(place, long, Math.min(rounds, 3)),
    await countIdle(place, 1),
    await countIdle(place, INSTANCE.concurrency),
    await count(place, { what: "a sign-in", endpoint: "user.login", remark: "a password is checked" }, rounds, () =>
      post(peer, "/user/login", people),
    ),
  ];
}

/**
 * Does it so many times, one after the other, and waits until nothing more is asked.
 * @param {Place} place
 * @param {{ what: string, endpoint: string, remark: string }} names
 * @param {number} times
 * @param {() => Promise<unknown>} work
 * @returns {Promise<Counted>}
 */
async function count(place, { what, endpoint, remark }, times, work) {
  let storeMs = 0;
  const sums = { trips: 0, statements: 0, commands: 0, functionMs: 0, billedSeconds: 0 };
  for (let time = 0; time < times; time++) {
    await quiet(place);
    const before = readingOf(place);
    const startedAt = performance.now();
    await work();
    storeMs += performance.now() - startedAt;
    await quiet(place);
    const { lines, ...asked } = since(place, before);
    const [line, ...more] = lines.filter((it) => it.endpoint === endpoint);
    if (line === undefined || more.length > 0) throw new Error(`${what} left ${more.length + 1} lines in the log, or none`);
    sums.trips += asked.trips;
    sums.statements += asked.statements;
    sums.commands += asked.commands;
    sums.functionMs += line.ms;
    sums.billedSeconds += billed(line.ms);
  }
  const mean = Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / times]));
  return /** @type {Counted} */ ({
    what,
    remark,
    times,
    requests: 1,
    storeSeconds: storeMs / times / 1000,
    lasts: false,
    ...mean,
  });
}

/** Streamed to somebody who watches at the same instance; their coming and going is not in it. */
async function countWatched(/** @type {Place} */ place, /** @type {string} */ model, /** @type {number} */ times) {
  const { peer } = place;
  const { id } = await post(peer, "/chat/create", {});
  const viewer = await openViewer({ port: peer.port, path: `/chat/stream?id=${id}`, headers: peer.headers }, () => {});
  const names = { what: "a reply of 600 tokens", endpoint: "chat.prompt", remark: "ten seconds, streamed to one viewer" };
  const counted = await count(place, names, times, () =>
    post(peer, "/chat/prompt", { id, prompt: "At length, please.", stream: true, model }),
  );
  viewer.close();
  await quiet(place);
  return counted;
}

/** @returns {Promise<Counted>} of one viewer's minute, of so many who watch a chat in which nothing is said */
async function countIdle(/** @type {Place} */ place, /** @type {number} */ viewers) {
  const { peer } = place;
  const { id } = await post(peer, "/chat/create", {});
  const crowd = new Crowd();
  await crowd.open({ port: peer.port, path: `/chat/stream?id=${id}`, headers: peer.headers }, viewers);
  await quiet(place);
  const { requests } = place.neon;
  const opened = requests.length;
  while (requests.length === opened) await sleep(50);
  await sleep(ROUND_MS / 2); // so that neither end of the window is near a round
  const before = readingOf(place);
  await sleep(MINUTE_MS);
  const { trips, statements, commands } = since(place, before);
  if (crowd.gone > 0) throw new Error(`${crowd.gone} idle viewers did not stay`);
  crowd.close();
  await quiet(place);
  return {
    what: viewers === 1 ? "a viewer's minute" : `the same of ${viewers}`,
    remark: viewers === 1 ? "nothing is said, and nobody else watches" : "who share an instance",
    times: viewers,
    trips: trips / viewers,
    statements: statements / viewers,
    commands: commands / viewers,
    // A stream is one request for the 50 minutes that it lasts.
    requests: 1 / 50,
    functionMs: MINUTE_MS / viewers,
    billedSeconds: MINUTE_MS / 1000 / viewers,
    storeSeconds: MINUTE_MS / 1000,
    lasts: true,
  };
}

function readingOf(/** @type {Place} */ { neon, upstash, peer }) {
  return { requests: neon.requests.length, commands: upstash.commands.length, lines: linesOf(peer).length };
}

function since(/** @type {Place} */ { neon, upstash, peer }, /** @type {ReturnType<typeof readingOf>} */ before) {
  const requests = neon.requests.slice(before.requests);
  return {
    trips: requests.length,
    statements: requests.reduce((sum, { queries }) => sum + queries.length, 0),
    commands: upstash.commands.length - before.commands,
    lines: linesOf(peer).slice(before.lines),
  };
}

/** @returns {{ endpoint?: string, ms: number }[]} */
function linesOf(/** @type {ChatPeer} */ { running }) {
  const lines = fs.readFileSync(running.logFile, "utf8").split("\n");
  return lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

/** What is written after an answer, and what a chat that was left asks, belongs to what came before it. */
async function quiet(/** @type {Place} */ place) {
  let [last, quietSince] = ["", performance.now()];
  while (performance.now() - quietSince < QUIET_MS) {
    const now = JSON.stringify(readingOf(place));
    if (now !== last) [last, quietSince] = [now, performance.now()];
    await sleep(50);
  }
}
