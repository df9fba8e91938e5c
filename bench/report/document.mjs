/**
 * docs/benchmarks.md: what `/v1` measured, and behind it, between two markers, what chats measured. Either run writes its own
 * part anew and keeps the other's, and both keep what a person wrote between the markers of notes.
 */
import fs from "node:fs";
import path from "node:path";
import { markdownTable } from "./print.mjs";

const CHAT = /<!-- chat -->\n[\s\S]*?\n<!-- \/chat -->\n?/;
const COLD = /<!-- cold (\d+) -->\n[\s\S]*?\n<!-- \/cold -->\n?/g;
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

/** Writes what `/v1` measured, and keeps the rest. */
export function writeDocument(/** @type {string} */ file, /** @type {Report} */ report) {
  const before = read(file);
  const chat = CHAT.exec(before)?.[0];
  const rest = before.replace(CHAT, "").replace(COLD, "");
  const parts = [relayText(report, notesIn(rest, "notes")), ...(chat === undefined ? [] : [chat]), ...(before.match(COLD) ?? [])];
  write(file, parts.join("\n"));
}

/** Writes what chats measured, and keeps the rest. */
export function writeChatSection(/** @type {string} */ file, /** @type {Omit<Report, "seconds">} */ report) {
  const before = read(file);
  const section = chatText(report, notesIn(before, "chat notes"));
  if (CHAT.test(before))
    write(
      file,
      before.replace(CHAT, () => section),
    );
  else write(file, `${before === "" ? "# Benchmarks\n" : before}\n${section}`);
}

/**
 * Writes what cold starts measured on one line of Node, and keeps the rest.
 * @param {string} file
 * @param {{ machine: Report["machine"], rounds: number, cells: import("./print.mjs").Cells, remarks: string[], major: number }} report
 */
export function writeColdSection(file, { machine, rounds, cells, remarks, major }) {
  const before = read(file);
  const section = `<!-- cold ${major} -->
## Cold starts, Node ${major}

Written by \`npm run build && node bench/cold.mjs\` on ${machine.date}: CPU time from a process's beginning to its first answer, ${rounds}
interleaved rounds, on ${machine.cpu}, ${machine.cores} cores. \`plain hello\` is a function that says no more, in the same bundled framework, which is compiled as it
starts; \`hello\` begins with what was kept of the framework, as the functions do. At first a function looks at its settings and
greets; the rest of it is loaded with the first request for something else.

${markdownTable(cells)}

${bullets(remarks)}
<!-- /cold -->
`;
  const known = new RegExp(`<!-- cold ${major} -->\\n[\\s\\S]*?\\n<!-- /cold -->\\n?`);
  write(file, known.test(before) ? before.replace(known, () => section) : `${before.trimEnd()}\n\n${section}`);
}

function relayText(/** @type {Report} */ { machine, rounds, seconds, rows, medians, remarks }, /** @type {string} */ notes) {
  return `# Benchmarks

Written by \`npm run bench\` on ${machine.date}; [bench/README.md](../bench/README.md) says what is measured and how.
Quote ratios with their spread, never an absolute number alone.

${machineLines(machine)}
- ${rounds} interleaved rounds, ${seconds} s per closed-loop measurement; sign-in, audit log and metering are on for proxy-gpt

## Targets

\`ours\` and \`peer\` are medians over the rounds, \`ratio\` the median of the ratios taken round by round, \`spread\` their least
and greatest (of the value itself where there is no peer). Rows without a target only explain the others.

${markdownTable(rows)}

${bullets(remarks)}

## Notes

${noted("notes", notes)}

## Behind the ratios

Medians, for orientation. Where \`busyPercent\` is well below 100, the load generator and the upstream were the limit and not the
proxy, so its requests per second are a lower bound. \`direct\` is the upstream without any proxy.

${markdownTable(medians)}
`;
}

function chatText(
  /** @type {Omit<Report, "seconds">} */ { machine, rounds, rows, medians, remarks },
  /** @type {string} */ notes,
) {
  return `<!-- chat -->
## Chat

Written by \`node bench/chat.mjs\` on ${machine.date}. \`naive\` is the usual first version of a fan-out, which is said the same
frames at the same moments; the other columns are as above.

${machineLines(machine)}
- ${rounds} interleaved rounds

${markdownTable(rows)}

${bullets(remarks)}

### Notes on chat

${noted("chat notes", notes)}

### Behind the rows on chat

${markdownTable(medians)}
<!-- /chat -->
`;
}

function machineLines(/** @type {Report["machine"]} */ machine) {
  const versions = Object.entries(machine.versions).flatMap(([name, version]) =>
    version === null ? [] : [`${name} ${version}`],
  );
  const pinning = machine.pinned ? "pinned to one CPU, load and upstream to another" : "not pinned, because taskset is missing";
  return bullets([
    `Machine: ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.system}; the measured proxy ${pinning}`,
    `Versions: ${versions.join(", ")}`,
  ]);
}

const bullets = (/** @type {string[]} */ lines) => lines.map((line) => `- ${line}`).join("\n");

const noted = (/** @type {string} */ name, /** @type {string} */ notes) => `<!-- ${name} -->\n${notes}\n<!-- /${name} -->`;

function notesIn(/** @type {string} */ text, /** @type {string} */ name) {
  return new RegExp(`<!-- ${name} -->\\n([\\s\\S]*?)\\n<!-- /${name} -->`).exec(text)?.[1] ?? NO_NOTES;
}

function read(/** @type {string} */ file) {
  return fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "";
}

function write(/** @type {string} */ file, /** @type {string} */ text) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, text);
}
