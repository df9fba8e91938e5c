/** How many commands Redis is asked for: what Upstash bills, and what every instance adds to a shared server. */
import { setTimeout as sleep } from "node:timers/promises";
import { post } from "../harness/api.mjs";
import { modelName } from "../load/chat.mjs";
import { Crowd } from "../load/crowd.mjs";
import { isPing, openViewer } from "../load/viewer.mjs";
import { openChatPeer, openSecond } from "../peers/chat.mjs";
import { startRedis, startUpstash, watchCommands, whyNoRedis } from "../peers/redis.mjs";
import { sqliteStore } from "../peers/start.mjs";

/** @typedef {import("./chat.mjs").Stage} Stage */
/** @typedef {import("../peers/chat.mjs").ChatPeer} ChatPeer */

const TOKENS = 600;
const GAP_MS = 16; // which a timer stretches to some 60 tokens a second
const IDLE_CHATS = 10;
const IDLE_VIEWERS = 100;
const IDLE_MS = 20_000; // a heartbeat of every stream, and a round of authorisation
const SETTLE_MS = 1_000;

/** One instance makes the reply, another watches it. */
export async function measureRedis(/** @type {Stage} */ stage) {
  const missing = whyNoRedis();
  if (missing !== null) {
    stage.remarks.push(`Redis commands are not counted: ${missing}`);
    return;
  }
  const servers = [await overTcp(stage), await overRest(stage)];
  await Promise.all(
    servers.map(async (server) => {
      const { figures, sent, idle } = await measure(server);
      const commandsPerIdleMinute = idle.length / (IDLE_VIEWERS * (IDLE_MS / 60_000));
      stage.samples.add(server.name, 0, { ...figures, commandsPerIdleMinute });
      stage.remarks.push(
        `${server.name}: a reply took ${tally(sent)}; ${IDLE_VIEWERS} idle viewers in ${IDLE_CHATS} chats: ${tally(idle)}`,
      );
      server.close();
    }),
  );
  for (const { makes, watches } of servers) {
    await watches.running.stop();
    await makes.running.stop();
  }
}

/**
 * @typedef {object} Server
 * @property {string} name
 * @property {ChatPeer} makes
 * @property {ChatPeer} watches
 * @property {() => { sent: string[], inScripts?: string[] }} counted  the commands since it was opened
 * @property {() => Promise<void>} stillCounts  throws where the silence is the counter's
 * @property {() => void} close
 */

/** @returns {Promise<Server>} */
async function overTcp(/** @type {Stage} */ stage) {
  const url = await startRedis(stage.testbed, "redis");
  const instances = await twoInstances(stage, "redis", { REDIS_ADDRESS: url });
  const { sent, inScripts, ...watching } = await watchCommands(url);
  return { name: "redis", ...instances, counted: () => ({ sent: [...sent], inScripts: [...inScripts] }), ...watching };
}

/** @returns {Promise<Server>} */
async function overRest(/** @type {Stage} */ stage) {
  const bridge = await startUpstash(stage.testbed, await startRedis(stage.testbed, "redis-behind-upstash"));
  const env = { UPSTASH_REDIS_REST_URL: bridge.url, UPSTASH_REDIS_REST_TOKEN: bridge.token };
  const instances = await twoInstances(stage, "upstash", env);
  const counted = () => ({ sent: bridge.commands.map(([command = ""]) => command.toLowerCase()) });
  return { name: "upstash", ...instances, counted, stillCounts: async () => {}, close: () => {} };
}

/** Two instances on one SQLite file and one bus. */
export async function twoInstances(
  /** @type {Stage} */ { testbed, entry },
  /** @type {string} */ name,
  /** @type {Record<string, string>} */ env,
) {
  const store = sqliteStore(testbed, name);
  const makes = await openChatPeer(testbed, { entry }, { name: `${name}-makes`, ...store, env });
  const watches = await openSecond(testbed, { entry }, { name: `${name}-watches`, ...store, env }, makes);
  return { makes, watches };
}

async function measure(/** @type {Server} */ server) {
  const reply = await countedReply(server);
  const idle = await countedIdle(server);
  reply.viewer.close(); // not before, because leaving a chat is a command as well
  return { ...reply, idle };
}

/** From the viewer's coming to the reply's end. */
async function countedReply(/** @type {Server} */ { makes, watches, counted }) {
  const { id } = await post(makes, "/chat/create", {});
  const before = counted();
  let frames = 0;
  const viewer = await openViewer(
    { port: watches.port, path: `/chat/stream?id=${id}`, headers: watches.headers },
    (frame) => isPing(frame) || frames++,
  );
  const startedAt = performance.now();
  const model = modelName({ chunks: TOKENS, gapMs: GAP_MS });
  const { message } = await post(makes, "/chat/prompt", { id, prompt: "At length, please.", stream: true, model });
  const seconds = (performance.now() - startedAt) / 1000;
  await sleep(SETTLE_MS);
  const after = counted();
  if (message.state !== "done") throw new Error(`the reply of ${TOKENS} tokens ended as ${message.state}`);
  const sent = after.sent.slice(before.sent.length);
  const inScripts = after.inScripts?.slice(before.inScripts?.length);
  const figures = { commandsPerReply: sent.length, framesPerReply: frames, tokensPerSecond: TOKENS / seconds };
  return { viewer, sent, figures: { ...figures, ...(inScripts && { withScripts: sent.length + inScripts.length }) } };
}

async function countedIdle(/** @type {Server} */ { makes, watches, counted, stillCounts }) {
  const crowds = [];
  for (let i = 0; i < IDLE_CHATS; i++) {
    const { id } = await post(makes, "/chat/create", {});
    const crowd = new Crowd();
    await crowd.open({ port: watches.port, path: `/chat/stream?id=${id}`, headers: watches.headers }, IDLE_VIEWERS / IDLE_CHATS);
    crowds.push(crowd);
  }
  await sleep(SETTLE_MS);
  const before = counted();
  await sleep(IDLE_MS);
  const after = counted();
  const gone = crowds.reduce((sum, crowd) => sum + crowd.gone, 0);
  if (gone > 0) throw new Error(`${gone} idle viewers did not stay`);
  await stillCounts();
  for (const crowd of crowds) crowd.close();
  return after.sent.slice(before.sent.length);
}

/** `70 × evalsha, 1 × subscribe`. */
function tally(/** @type {string[]} */ commands) {
  const counts = new Map();
  for (const name of commands) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, times]) => `${times} × ${name}`).join(", ") || "none";
}
