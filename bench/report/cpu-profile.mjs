/** Self times out of a V8 CPU profile, told by the source files that a bundle was made of. */
import fs from "node:fs";
import { SourceMap } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

/**
 * @typedef {import("node:inspector").Profiler.Profile} Profile
 * @typedef {{ originalSource?: string, originalLine: number, name?: string }} Mapping  without a source where nothing is mapped
 */

/**
 * @param {Profile} profile
 * @param {{ windows: { fromUs: number, toUs: number }[], root: string }} options  on the monotonic clock; paths are told relative
 *   to `root`
 * @returns {{ busyMs: number, idleMs: number, byFunction: Map<string, number>, byFile: Map<string, number> }} milliseconds
 */
export function selfTimes(profile, { windows, root }) {
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
    if (frame === undefined || !windows.some(({ fromUs, toUs }) => atUs >= fromUs && atUs <= toUs)) return;
    const ms = deltaUs / 1000;
    if (frame.functionName === "(idle)") {
      idleMs += ms;
      return;
    }
    busyMs += ms;
    const { source, name } = nameSource(frame);
    byFunction.set(name, (byFunction.get(name) ?? 0) + ms);
    const file = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(source)?.[1] ?? source;
    byFile.set(file, (byFile.get(file) ?? 0) + ms);
  });
  return { busyMs, idleMs, byFunction, byFile };
}

/** Through the bundle's source maps, where there are some. */
function sourceNamer(/** @type {string} */ root) {
  /** @type {Map<string, SourceMap | null>} */
  const maps = new Map();
  return (/** @type {import("node:inspector").Runtime.CallFrame} */ { url, functionName, lineNumber, columnNumber }) => {
    if (!url.startsWith("file:")) return { source: url || functionName, name: [url, functionName].filter(Boolean).join(":") };
    const file = fileURLToPath(url);
    const map = maps.has(file) ? maps.get(file) : readSourceMap(file);
    maps.set(file, map ?? null);
    const entry = /** @type {Mapping | undefined} */ (map?.findEntry(lineNumber, columnNumber));
    if (entry?.originalSource === undefined) {
      const source = path.relative(root, file);
      return { source, name: `${source}:${lineNumber + 1} ${functionName}` };
    }
    const source = path.relative(root, path.resolve(path.dirname(file), entry.originalSource));
    // Shortened names say nothing; those of methods are kept by the minifier.
    const name = entry.name || (functionName.length > 2 ? functionName : "");
    return { source, name: `${source}:${entry.originalLine + 1} ${name}`.trimEnd() };
  };
}

function readSourceMap(/** @type {string} */ file) {
  return fs.existsSync(`${file}.map`) ? new SourceMap(JSON.parse(fs.readFileSync(`${file}.map`, "utf8"))) : null;
}
