import fs from "node:fs";
import path from "node:path";
import { markdownTable } from "./print.mjs";

const NOTES = /<!-- notes -->\n([\s\S]*?)\n<!-- \/notes -->/;
const NO_NOTES = "What falls short and why is written here by hand; a rerun keeps everything between the two markers.";

/**
 * @typedef {object} Report
 * @property {ReturnType<typeof import("./machine.mjs").describeMachine>} machine
 * @property {number} rounds
 * @property {number} seconds
 * @property {import("./print.mjs").Cells} rows
 * @property {import("./print.mjs").Cells} medians
 * @property {string[]} remarks
 */

/** Writes the document anew, except for the notes that a person wrote between the markers. */
export function writeDocument(/** @type {string} */ file, /** @type {Report} */ report) {
  const notes = fs.existsSync(file) ? NOTES.exec(fs.readFileSync(file, "utf8"))?.[1] : undefined;
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, documentText(report, notes ?? NO_NOTES));
}

function documentText(/** @type {Report} */ { machine, rounds, seconds, rows, medians, remarks }, /** @type {string} */ notes) {
  const versions = Object.entries(machine.versions).flatMap(([name, version]) =>
    version === null ? [] : [`${name} ${version}`],
  );
  const pinning = machine.pinned ? "pinned to one CPU, load and upstream to another" : "not pinned, because taskset is missing";
  return `# Benchmarks

Written by \`npm run bench\` on ${machine.date}; [bench/README.md](../bench/README.md) says what is measured and how.
Quote ratios with their spread, never an absolute number alone.

- Machine: ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.system}; the measured proxy ${pinning}
- Versions: ${versions.join(", ")}
- ${rounds} interleaved rounds, ${seconds} s per closed-loop measurement; sign-in, audit log and metering are on for proxy-gpt

## Targets

\`ours\` and \`peer\` are medians over the rounds, \`ratio\` the median of the ratios taken round by round, \`spread\` their least
and greatest (of the value itself where there is no peer). Rows without a target only explain the others.

${markdownTable(rows)}

${remarks.map((remark) => `- ${remark}`).join("\n")}

## Notes

<!-- notes -->
${notes}
<!-- /notes -->

## Behind the ratios

Medians, for orientation. Where \`busyPercent\` is well below 100, the load generator and the upstream were the limit and not the
proxy, so its requests per second are a lower bound. \`direct\` is the upstream without any proxy.

${markdownTable(medians)}
`;
}
