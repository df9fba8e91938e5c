/** What a prompt costs: the first piece of its reply, the round trip, a long chat, and the context. */
import { rotated } from "../harness/statistics.mjs";
import { CHAT_PATH, chatBody, modelName } from "../load/chat.mjs";
import { fillChats } from "../peers/fill.mjs";
import { startRedis, whyNoRedis } from "../peers/redis.mjs";
import { accounted, known, load, loaded } from "./measured.mjs";

/** @typedef {import("./chat.mjs").Stage} Stage */
/** @typedef {import("../peers/chat.mjs").ChatPeer} ChatPeer */

/** A short reply at once: what is measured is ours. */
const MODEL = modelName({ chunks: 5 });
const PROMPT = { prompt: "What did we decide today?", model: MODEL };
const FIRST_PROMPTS = 8;
const ROUND_TRIPS = 40;
const LONG_CHAT = 100_000;
const LONG_CHARACTERS = 250;
const LONG_PROMPTS = 40;
const CONTEXT_PAIRS = 10;
const CONTEXT_CHARACTERS = 1_000;
const CONTEXT_PROMPTS = 120;
const CONTEXT_AT_ONCE = 4;
const CONTEXT_READS = 1_000;

/** The first piece of a reply, and the whole round trip against the upstream's own. */
export async function measureFirst(/** @type {Stage} */ { testbed, stores, samples, rounds }) {
  const chats = await eachStore(stores, (peer) => fillChats(peer.databaseUrl, { ownerId: peer.owner.userId, chats: 1 }));
  const direct = { name: "direct", port: testbed.upstreamPort, path: CHAT_PATH, headers: {} };
  const lanes = [
    { ...direct, body: JSON.parse(chatBody({ model: MODEL, stream: true })) },
    ...stores.map((peer, i) => ({ ...laneOf(peer, peer.name, chats[i] ?? []), body: { ...PROMPT, context: 0 } })),
  ];
  await load("prompts", testbed, { lanes, each: ROUND_TRIPS, atOnce: 1 }); // compiled code and open connections
  for (let round = 0; round < rounds; round++) {
    for (const [i, peer] of stores.entries()) {
      const options = { chatId: chats[i]?.[0], prompts: FIRST_PROMPTS };
      const { firstViewerMs, firstPrompterMs } = await loaded("first", peer, testbed, options);
      samples.add(peer.name, round, { firstViewerMs, firstPrompterMs });
    }
    const { medianMs } = await checked(testbed, { lanes, each: ROUND_TRIPS, atOnce: 1 });
    for (const { name } of lanes) samples.add(name, round, { roundTripMs: medianMs[name] ?? Number.NaN });
  }
}

/** A chat with 100,000 messages against empty ones, which stay empty: each is prompted once. With the usual context, and with none. */
export async function measureLongChat(/** @type {Stage} */ { testbed, stores, samples, rounds }) {
  for (const peer of stores) {
    const { userId: ownerId } = peer.owner;
    const filling = { ownerId, chats: 1, pairs: LONG_CHAT, characters: LONG_CHARACTERS };
    const long = await fillChats(peer.databaseUrl, filling);
    const empty = await fillChats(peer.databaseUrl, { ownerId, chats: 2 * LONG_PROMPTS * (rounds + 1) });
    for (let round = -1; round < rounds; round++) {
      const fresh = (/** @type {number} */ place) => {
        const from = (2 * (round + 1) + place) * LONG_PROMPTS;
        return empty.slice(from, from + LONG_PROMPTS);
      };
      const lanes = [
        { ...laneOf(peer, "long", long), body: PROMPT },
        { ...laneOf(peer, "empty", fresh(0)), body: PROMPT },
        { ...laneOf(peer, "longBare", long), body: { ...PROMPT, context: 0 } },
        { ...laneOf(peer, "emptyBare", fresh(1)), body: { ...PROMPT, context: 0 } },
      ];
      const { medianMs } = await checked(testbed, { lanes, each: LONG_PROMPTS, atOnce: 1 });
      if (round < 0) continue; // compiled code and warm caches
      const metrics = Object.entries(medianMs).map(([lane, ms]) => [`promptMs:${lane}`, ms]);
      samples.add(peer.name, round, Object.fromEntries(metrics));
    }
  }
}

/** Prompts that are sent with ten pairs of 2 KB against those that are sent alone; and the reading of those pairs against a cache's. */
export async function measureContext(/** @type {Stage} */ stage) {
  const { testbed, stores, samples, rounds, remarks } = stage;
  const missing = whyNoRedis();
  if (missing !== null) remarks.push(`the context is not compared with a cache: ${missing}`);
  const redisUrl = missing === null ? await startRedis(testbed, "redis-of-contexts") : null;
  const lanes = { none: { context: 0 }, pairs: { context: CONTEXT_PAIRS } };
  for (const peer of stores) {
    const filling = { pairs: CONTEXT_PAIRS, characters: CONTEXT_CHARACTERS, ownerId: peer.owner.userId };
    const chats = await fillChats(peer.databaseUrl, { ...filling, chats: 2 * CONTEXT_PROMPTS * (rounds + 1) });
    for (let round = -1; round < rounds; round++) {
      for (const [name, context] of rotated(Object.entries(lanes), round)) {
        const ids = chats.splice(0, CONTEXT_PROMPTS);
        const lane = { ...laneOf(peer, name, ids), body: { ...PROMPT, ...context } };
        const input = { lanes: [lane], each: CONTEXT_PROMPTS, atOnce: CONTEXT_AT_ONCE };
        const result = await accounted(peer, () => checked(testbed, input));
        if (round < 0) continue; // compiled code and warm caches
        const values = known({
          [`promptCpuUs:${name}`]: (result.cpuSeconds / CONTEXT_PROMPTS) * 1e6,
          [`promptDatabaseCpuUs:${name}`]: (result.databaseSeconds / CONTEXT_PROMPTS) * 1e6,
          [`promptLatencyMs:${name}`]: result.medianMs[name] ?? Number.NaN,
        });
        samples.add(peer.name, round, values);
      }
    }
    if (redisUrl === null) continue;
    const read = await fillChats(peer.databaseUrl, { ...filling, chats: 20 });
    for (let round = 0; round < rounds; round++) {
      const input = { databaseUrl: peer.databaseUrl, redisUrl, chats: read, pairs: CONTEXT_PAIRS, reads: CONTEXT_READS };
      const { store, cache } = await load("context", testbed, input);
      samples.add(peer.name, round, { contextCpuUs: store.cpuUs, contextMs: store.ms });
      samples.add(peer.name, round, { cachedContextCpuUs: cache.cpuUs, cachedContextMs: cache.ms });
    }
  }
}

function laneOf(/** @type {ChatPeer} */ { port, headers }, /** @type {string} */ name, /** @type {string[]} */ ids) {
  return { name, port, headers, path: "/chat/prompt", ids };
}

/** Prompts that fail are fast for the wrong reason. */
async function checked(/** @type {Stage["testbed"]} */ testbed, /** @type {Record<string, unknown>} */ input) {
  const result = await load("prompts", testbed, input);
  if (result.failed > 0) throw new Error(`${result.failed} of ${result.requests} prompts failed`);
  return /** @type {{ requests: number, failed: number, medianMs: Record<string, number> }} */ (result);
}

function eachStore(/** @type {ChatPeer[]} */ stores, /** @type {(peer: ChatPeer) => Promise<string[]>} */ make) {
  return Promise.all(stores.map(make));
}
