/** A member stops the reply to another's prompt, on the instance that makes it and on another one. */
import { median } from "../harness/statistics.mjs";
import { fillChats } from "../peers/fill.mjs";
import { startRedis, whyNoRedis } from "../peers/redis.mjs";
import { loaded } from "./measured.mjs";
import { twoInstances } from "./redis.mjs";

/** @typedef {import("./chat.mjs").Stage} Stage */
/** @typedef {import("../peers/chat.mjs").ChatPeer} ChatPeer */

const STOPS = 50;

export async function measureStop(/** @type {Stage} */ stage) {
  for (const peer of stage.stores) await measure(stage, peer.name, peer, peer);
  const missing = whyNoRedis();
  if (missing !== null) {
    stage.remarks.push(`stopping on another instance is not measured: ${missing}`);
    return;
  }
  const env = { REDIS_ADDRESS: await startRedis(stage.testbed, "redis-of-stops") };
  const { makes, watches } = await twoInstances(stage, "stops", env);
  await measure(stage, "redis", makes, watches);
  await watches.running.stop();
  await makes.running.stop();
}

async function measure(
  /** @type {Stage} */ { testbed, samples },
  /** @type {string} */ name,
  /** @type {ChatPeer} */ makes,
  /** @type {ChatPeer} */ stops,
) {
  const { owner, member } = makes;
  const chats = await fillChats(makes.databaseUrl, { ownerId: owner.userId, memberId: member.userId, chats: STOPS });
  const { abortedPercent, delaysMs } = await loaded("stop", makes, testbed, {
    ...{ stopPort: stops.port, upstreamPort: testbed.upstreamPort, memberHeaders: member.headers },
    ...{ chats, run: name },
  });
  samples.add(name, 0, {
    stopAbortedPercent: abortedPercent,
    stopMedianMs: median(delaysMs),
    stopWorstMs: Math.max(...delaysMs),
  });
}
