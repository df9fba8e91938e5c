/** The rows as text: aligned for a terminal, Markdown for the document, JSON lines for programs. */

/**
 * @typedef {import("./questions.mjs").Row} Row
 * @typedef {import("../harness/samples.mjs").Samples} Samples
 * @typedef {string[][]} Cells  the first line is the heading
 */
import { median } from "../harness/statistics.mjs";

/** @param {Row[]} rows @returns {Cells} */
export function rowCells(rows) {
  const heading = ["what", "measured", "ours", "peer", "ratio", "spread", "target", "reached"];
  return [heading, ...rows.map(cellsOf)];
}

/** What stands behind the ratios: every metric's median, peer by peer. @returns {Cells} */
export function medianCells(/** @type {Samples} */ samples, /** @type {string[]} */ peers) {
  const all = samples.all();
  const metrics = [...new Set(all.map(({ metric }) => metric))];
  const lines = metrics.map((metric) => [metric, ...peers.map((peer) => figure(median(samples.get(peer, metric))))]);
  return [["median of", ...peers], ...lines.filter(([, ...values]) => values.some((text) => text !== "–"))];
}

export function alignedTable(/** @type {Cells} */ cells) {
  const widths = (cells[0] ?? []).map((_, column) => Math.max(...cells.map((line) => (line[column] ?? "").length)));
  const lines = cells.map((line) =>
    line
      .map((text, column) => text.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  return lines.join("\n");
}

export function markdownTable(/** @type {Cells} */ cells) {
  const [heading = [], ...lines] = cells.map((line) => line.map((text) => text.replaceAll("|", "\\|")));
  return [heading, heading.map(() => "---"), ...lines].map((line) => `| ${line.join(" | ")} |`).join("\n");
}

/**
 * @param {Record<string, unknown>} machine
 * @param {Row[]} rows
 * @param {Samples} samples
 * @param {string[]} remarks
 */
export function jsonLines(machine, rows, samples, remarks) {
  const records = [
    { kind: "machine", ...machine },
    ...rows.map((row) => ({ kind: "row", ...row })),
    ...samples.all().map((sample) => ({ kind: "samples", ...sample })),
    ...remarks.map((text) => ({ kind: "remark", text })),
  ];
  return records.map((record) => JSON.stringify(record)).join("\n");
}

function cellsOf(/** @type {Row} */ row) {
  const unit = row.unit === "" ? "" : ` ${row.unit}`;
  const ours = `${figure(row.ours)}${unit}`;
  const peer = row.peer === null ? "" : `${row.peer} ${figure(row.peers ?? Number.NaN)}${unit}`;
  const range = row.min === row.max ? "" : `${figure(row.min)}..${figure(row.max)}`;
  const target = row.target === null ? "" : `${row.target.sign} ${row.target.value}${row.peer === null ? unit : " ×"}`;
  const reached = row.reached === null ? "" : row.reached ? "yes" : "NO";
  return [row.what, row.subject, ours, peer, row.ratio === null ? "" : `${figure(row.ratio)} ×`, range, target, reached];
}

/** Three significant digits, without an exponent. */
function figure(/** @type {number} */ value) {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 100) return String(Math.round(value));
  return String(Number(value.toPrecision(3)));
}
