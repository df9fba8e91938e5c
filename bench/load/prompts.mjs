/**
 * Prompts, or questions to the upstream itself, in several situations by turns, so that what slows the machine down slows all of
 * them. Prints { requests, failed, medianMs: { <lane>: … } }.
 *
 *   node prompts.mjs '{ "lanes": [{ "name", "port", "path", "headers", "body": {}, "ids": [] }], "each": 40, "atOnce": 1 }'
 *
 * `ids`: a chat for each request, or one for all of them.
 */
import { median } from "../harness/statistics.mjs";
import { createAsker } from "./asker.mjs";

/** @typedef {{ name: string, port: number, path: string, headers: Record<string, string>, body: Record<string, unknown>, ids?: string[] }} Lane */

const { lanes, each, atOnce } = /** @type {{ lanes: Lane[], each: number, atOnce: number }} */ (
  JSON.parse(process.argv[2] ?? "{}")
);
const askers = lanes.map(({ port, headers }) => createAsker({ port, headers, connections: atOnce }));
/** @type {number[][]} */
const latenciesMs = lanes.map(() => []);
let failed = 0;
let next = 0;

async function turns() {
  for (let turn = next++; turn < each; turn = next++) {
    for (let place = 0; place < lanes.length; place++) {
      // Who comes first has the colder caches: everybody does, in turn.
      const lane = (place + turn) % lanes.length;
      const { path = "", body = {}, ids } = lanes[lane] ?? {};
      const id = ids?.[turn % ids.length];
      const answer = await askers[lane]?.ask(path, JSON.stringify(id === undefined ? body : { ...body, id }));
      if (answer?.status === 200) latenciesMs[lane]?.push(answer.ms);
      else failed++;
    }
  }
}

await Promise.all(Array.from({ length: atOnce }, turns));
for (const asker of askers) asker.close();
const medianMs = Object.fromEntries(lanes.map(({ name }, i) => [name, median(latenciesMs[i] ?? [])]));
console.log(JSON.stringify({ requests: each * lanes.length, failed, medianMs }));
