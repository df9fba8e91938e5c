/** A thousand viewers of one chat: what a delivery costs, and that each of them gets each frame once. */
import { post } from "../harness/api.mjs";
import { openNaive } from "../peers/chat.mjs";
import { load } from "./measured.mjs";

const VIEWERS = 1_000;
/** Opening the viewers and warming up, and each round. */
const TIMEOUT_MS = 60_000;
const ROUND_TIMEOUT_MS = 60_000;

export async function measureFanout(/** @type {import("./chat.mjs").Stage} */ stage) {
  const { testbed, samples, rounds, wrong } = stage;
  const [ours] = stage.stores;
  if (ours === undefined) return;
  const naive = await openNaive(testbed);
  const { id: chatId } = await post(ours, "/chat/create", {});
  const { id: quietChatId } = await post(ours, "/chat/create", {});
  const input = {
    ours: { port: ours.port, pid: ours.running.pid, headers: ours.headers, chatId, quietChatId },
    naive: { port: naive.port, pid: naive.running.pid },
    viewers: VIEWERS,
    rounds,
  };
  const { measured } = await load("fanout", testbed, input, TIMEOUT_MS + rounds * ROUND_TIMEOUT_MS);
  await naive.running.stop();
  let total = 0;
  for (const { name, round, variant, ...one } of measured) {
    if (name === "ours") total += one.deliveries;
    samples.add(name === "ours" ? ours.name : name, round, {
      [`cpuUsPerDelivery:${variant}`]: one.cpuUsPerDelivery,
      [`deliveryCpuUs:${variant}`]: one.cpuUsPerDelivery - (one.aloneUsPerDelivery ?? 0),
      [`lost:${variant}`]: one.lost,
      [`doubled:${variant}`]: one.doubled + one.disordered,
      [`busyPercent:${variant}`]: one.busyPercent,
      ...(one.lastViewerMs !== undefined && { [`lastViewerMs:${variant}`]: one.lastViewerMs }),
    });
    const faults = `${one.lost} lost, ${one.doubled} doubled, ${one.disordered} out of order, ${one.broken ?? 0} replies broken`;
    const isWrong = one.lost + one.doubled + one.disordered + (one.broken ?? 0) > 0;
    if (isWrong) wrong.push(`${name}, ${variant}, round ${round + 1}: of ${one.deliveries} deliveries ${faults}`);
  }
  stage.remarks.push(
    `fan-out: ${total.toLocaleString("en")} deliveries to ${VIEWERS.toLocaleString("en")} viewers checked one by one`,
  );
}
