/** What viewers hold: many that hear nothing, and one that does not read. Servers of their own, whose garbage is collected first. */
import fs from "node:fs";
import path from "node:path";
import { post } from "../harness/api.mjs";
import { openChatPeer, openNaive } from "../peers/chat.mjs";
import { sqliteStore } from "../peers/start.mjs";
import { BENCH_FOLDER } from "../peers/testbed.mjs";
import { loaded } from "./measured.mjs";

/** @typedef {import("./chat.mjs").Stage} Stage */

const COLLECTED = ["--expose-gc", "-r", path.join(BENCH_FOLDER, "peers/collect.cjs")];
const MANY = 5_000;
const FEWER = 2_000;
const OPEN_FILES_BESIDE = 200;
const MEGABYTES = 60;

export async function measureIdle(/** @type {Stage} */ stage) {
  const viewers = mostOpenFiles() >= MANY + OPEN_FILES_BESIDE ? MANY : FEWER;
  stage.remarks.push(
    `memory per idle viewer: of ${viewers.toLocaleString("en")} viewers, garbage collected before either reading`,
  );
  await withServers(stage, async (server) => {
    const { idleKiB, idleHeldKiB } = await loaded("idle", server.peer, stage.testbed, { ...server.input, viewers });
    stage.samples.add(server.name, 0, { idleKiB, idleHeldKiB });
  });
}

export async function measureStalled(/** @type {Stage} */ stage) {
  await withServers(stage, async (server) => {
    const input = { ...server.input, say: server.say, megabytes: MEGABYTES };
    const { stalledMiB, stalledHeldMiB, missed } = await loaded("stalled", server.peer, stage.testbed, input);
    stage.samples.add(server.name, 0, { stalledMiB, stalledHeldMiB });
    if (missed > 0) stage.wrong.push(`${server.name}: one who reads missed ${missed} frames while another does not read`);
  });
}

/**
 * @typedef {object} Server
 * @property {string} name
 * @property {import("../peers/testbed.mjs").Peer} peer
 * @property {{ pid: number, path: string, alive: string, file: string }} input
 * @property {{ path: string, body: Record<string, unknown>, field: string }} say  how something is said to all who watch
 */

/** Ours and the naive one, each new and alone. */
async function withServers(/** @type {Stage} */ { testbed, entry }, /** @type {(server: Server) => Promise<void>} */ measure) {
  const file = path.join(testbed.folder, "collected.json");
  const env = { COLLECTED_FILE: file };
  const store = sqliteStore(testbed, `memory-${testbed.peers.length}`);
  const ours = await openChatPeer(testbed, { entry, nodeOptions: COLLECTED }, { name: "memory", ...store, env });
  const { id } = await post(ours, "/chat/create", {});
  await measure({
    name: "sqlite",
    peer: ours,
    input: { pid: ours.running.pid, path: `/chat/stream?id=${id}`, alive: "/health", file },
    // Off the record: one frame a prompt, at once.
    say: { path: "/chat/prompt", body: { id, otr: true }, field: "prompt" },
  });
  await ours.running.stop();
  const naive = await openNaive(testbed, COLLECTED, env);
  await measure({
    name: "naive",
    peer: naive,
    input: { pid: naive.running.pid, path: "/stream", alive: "/", file },
    say: { path: "/say", body: { id: "1", event: null }, field: "data.message.prompt" },
  });
  await naive.running.stop();
}

function mostOpenFiles() {
  const limits = fs.readFileSync("/proc/self/limits", "utf8");
  const most = /^Max open files\s+\S+\s+(\S+)/m.exec(limits)?.[1];
  return most === "unlimited" ? Number.POSITIVE_INFINITY : Number(most);
}
