/** What can be asked of the figures, and the answers: a row each, with what it is compared with and whether its target was reached. */
import { median, pairedDifferences, pairedRatios, spread } from "../harness/statistics.mjs";

/**
 * @typedef {import("../harness/samples.mjs").Samples} Samples
 * @typedef {{ sign: "≤" | "≥", value: number }} Target  for the ratio where there is a peer, else for the value
 */

/**
 * @typedef {object} Question
 * @property {string} what
 * @property {string} metric
 * @property {string} unit
 * @property {string} [peer]  the ratio to this peer is what counts
 * @property {{ metric: string, name: string }} [baseline]  instead of a peer: the same subject in another situation
 * @property {boolean} [added]  less what the upstream takes when it is asked directly
 * @property {(values: number[]) => number} [of]  the round that counts, the median unless told
 * @property {Target} [target]  none for a row that only explains
 */

/**
 * @typedef {object} Row
 * @property {string} what
 * @property {string} subject
 * @property {string} unit
 * @property {number} ours
 * @property {string | null} peer
 * @property {number | null} peers
 * @property {number | null} ratio
 * @property {number} min  of the ratio, or of the value, over the rounds
 * @property {number} max
 * @property {Target | null} target
 * @property {boolean | null} reached
 */

/** @returns {Target} */
export const atMost = (/** @type {number} */ value) => ({ sign: "≤", value });
/** @returns {Target} */
export const atLeast = (/** @type {number} */ value) => ({ sign: "≥", value });
export const lowest = (/** @type {number[]} */ values) => Math.min(...values);
export const highest = (/** @type {number[]} */ values) => Math.max(...values);

/** @returns {Row[]} those for which something was measured, each question of every subject */
export function answers(
  /** @type {Samples} */ samples,
  /** @type {Question[]} */ questions,
  /** @type {Record<string, string>} */ subjects,
) {
  const rows = questions.flatMap((question) =>
    Object.entries(subjects).map(([name, subject]) => answer(samples, question, name, subject)),
  );
  return rows.filter((row) => row !== null);
}

/**
 * @param {Samples} samples
 * @param {Question} question
 * @param {string} name
 * @param {string} subject
 * @returns {Row | null}
 */
function answer(samples, { what, metric, unit, peer, baseline, added = false, of = median, target }, name, subject) {
  const valuesOf = (/** @type {string} */ who, /** @type {string} */ which) => {
    const values = samples.get(who, which);
    return added ? pairedDifferences(values, samples.get("direct", which)) : values;
  };
  const compared = baseline?.name ?? peer ?? null;
  const ours = valuesOf(name, metric);
  const peers = compared === null ? [] : valuesOf(baseline ? name : compared, baseline?.metric ?? metric);
  const ratios = pairedRatios(ours, peers);
  const judged = compared === null ? ours : ratios;
  if (judged.length === 0 || (target === undefined && !judged.some(Number.isFinite))) return null;
  const figure = compared === null ? of(ours) : median(ratios);
  const { min, max } = spread(judged);
  return {
    ...{ what, subject, unit, min, max, ours: of(ours), peer: compared },
    peers: compared === null ? null : median(peers),
    ratio: compared === null ? null : figure,
    target: target ?? null,
    reached: target === undefined ? null : meets(figure, target),
  };
}

/** Nothing measured (NaN) reaches nothing. */
function meets(/** @type {number} */ figure, /** @type {Target} */ { sign, value }) {
  return sign === "≤" ? figure <= value : figure >= value;
}
