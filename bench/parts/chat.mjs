/** The parts of a run on chats, in their order. Each does its own rounds, in which its peers take turns. */
import { measureFanout } from "./fanout.mjs";
import { measureIdle, measureStalled } from "./memory.mjs";
import { measureContext, measureFirst, measureLongChat } from "./prompts.mjs";
import { measureRedis } from "./redis.mjs";
import { measureStop } from "./stop.mjs";

/**
 * @typedef {object} Stage
 * @property {import("../peers/testbed.mjs").Testbed} testbed
 * @property {string} entry  proxy-gpt's built main file
 * @property {number} rounds
 * @property {import("../peers/chat.mjs").ChatPeer[]} stores  proxy-gpt on each store, of those that were asked for and can be had
 * @property {import("../harness/samples.mjs").Samples} samples
 * @property {string[]} remarks
 * @property {string[]} wrong  what must not be, one line each
 */

/** @type {Record<string, (stage: Stage) => Promise<void>>} */
export const CHAT_PARTS = {
  fanout: measureFanout,
  idle: measureIdle,
  stalled: measureStalled,
  redis: measureRedis,
  first: measureFirst,
  stop: measureStop,
  long: measureLongChat,
  context: measureContext,
};
