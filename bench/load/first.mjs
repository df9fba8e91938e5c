/**
 * How long the first piece of a reply is under way, from the upstream's writing it to somebody who watches, and to the one
 * who asked and reads it in the answer. The model thinks first, as models do. Prints { requests, failed, firstViewerMs, firstPrompterMs }.
 *
 *   node first.mjs '{ "port": 8080, "headers": {}, "chatId": "…", "prompts": 20 }'
 */
import { median } from "../harness/statistics.mjs";
import { createAsker } from "./asker.mjs";
import { modelName } from "./chat.mjs";
import { openViewer } from "./viewer.mjs";

const { port, headers, chatId, prompts } = JSON.parse(process.argv[2] ?? "{}");
const THINKING_MS = 150;
const WRITTEN = / t(\d+)/;
const LATE_MS = 2_000;

const asker = createAsker({ port, headers });
/** @type {number[]} */
const viewerMs = [];
/** @type {number[]} */
const prompterMs = [];
let failed = 0;
let onFirst = () => {};
/** What was heard already, so that only the first piece of a reply counts: the pieces after it begin with another time. */
let awaited = false;

const viewer = await openViewer({ port, path: `/chat/stream?id=${chatId}`, headers }, (frame, nowNs) => {
  if (awaited && note(viewerMs, frame, nowNs)) {
    awaited = false;
    onFirst();
  }
});
const body = JSON.stringify({
  id: chatId,
  prompt: "Hello?",
  stream: true,
  model: modelName({ chunks: 3, gapMs: 5, delayMs: THINKING_MS }),
});
for (let n = 0; n < prompts; n++) {
  awaited = true;
  const first = new Promise((resolve) => {
    onFirst = () => resolve(true);
    setTimeout(() => resolve(false), LATE_MS).unref();
  });
  let unheard = true;
  const { status } = await asker.ask("/chat/prompt", body, { accept: "text/event-stream" }, (piece, nowNs) => {
    if (unheard && note(prompterMs, piece, nowNs)) unheard = false;
  });
  if (status !== 200 || unheard || !(await first)) failed++;
  awaited = false;
}
viewer.close();
asker.close();
const medians = { firstViewerMs: median(viewerMs), firstPrompterMs: median(prompterMs) };
console.log(JSON.stringify({ requests: prompts, failed, ...medians }));

function note(/** @type {number[]} */ delaysMs, /** @type {string} */ text, /** @type {bigint} */ nowNs) {
  const writtenNs = WRITTEN.exec(text)?.[1];
  if (writtenNs === undefined) return false;
  delaysMs.push(Number(nowNs - BigInt(writtenNs)) / 1e6);
  return true;
}
