/** Self times out of a V8 CPU profile, told by the source files that a bundle was made of. */
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** @typedef {import("node:inspector").Profiler.Profile} Profile */

/**
 * @param {Profile} profile
 * @param {{ fromUs: number, toUs: number, root: string }} window  on the monotonic clock; paths are told relative to `root`
 * @returns {{ busyMs: number, idleMs: number, byFunction: Map<string, number>, byFile: Map<string, number> }} milliseconds
 */
export function selfTimes(profile, { fromUs, toUs, root }) {
  const nodes = new Map(profile.nodes.map((node) => [node.id, node.callFrame]));
  const nameSource = sourceNamer(root);
  const byFunction = new Map();
  const byFile = new Map();
  let idleMs = 0;
  let busyMs = 0;
  let atUs = profile.startTime;
  profile.samples?.forEach((id, place) => {
    const deltaUs = profile.timeDeltas?.[place] ?? 0;
    atUs += deltaUs;
    const frame = nodes.get(id);
    if (frame === undefined || atUs < fromUs || atUs > toUs) return;
    const ms = deltaUs / 1000;
    if (frame.functionName === "(idle)") {
      idleMs += ms;
      return;
    }
    busyMs += ms;
    const source = nameSource(frame.url, frame.lineNumber);
    const name = source === "" ? frame.functionName : `${source}:${frame.functionName || `(line ${frame.lineNumber + 1})`}`;
    byFunction.set(name, (byFunction.get(name) ?? 0) + ms);
    const file = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(source)?.[1] ?? (source || frame.functionName);
    byFile.set(file, (byFile.get(file) ?? 0) + ms);
  });
  return { busyMs, idleMs, byFunction, byFile };
}

/** esbuild writes the path of each source above its part of the bundle: `// lib/http/serve.ts`. */
function sourceNamer(/** @type {string} */ root) {
  /** @type {Map<string, string[]>} */
  const sources = new Map();
  return (/** @type {string} */ url, /** @type {number} */ line) => {
    if (!url.startsWith("file:")) return url;
    const file = fileURLToPath(url);
    const known = sources.get(file) ?? sourceOfEachLine(file, path.relative(root, file));
    sources.set(file, known);
    return known[line] ?? path.relative(root, file);
  };
}

function sourceOfEachLine(/** @type {string} */ file, /** @type {string} */ name) {
  if (!fs.existsSync(file)) return [];
  let current = name;
  return fs
    .readFileSync(file, "utf8")
    .split("\n")
    .map((line) => {
      current = /^\s*\/\/ (\S+\.(?:[cm]?[jt]s|json))$/.exec(line)?.[1] ?? current;
      return current;
    });
}
