import { parseArgs } from "node:util";

/**
 * @typedef {object} Options
 * @property {number} rounds   how often every peer is measured in turn
 * @property {number} seconds  length of one closed-loop measurement; 0 in a run that has none
 * @property {Set<string>} peers
 * @property {Set<string>} parts
 * @property {boolean} jsonl
 * @property {string | null} write  the document to write, null for none
 * @property {string} entry  the built server that is measured
 */

/**
 * `seconds`: the default of an option that only some runs have.
 * @param {string[]} argv
 * @param {{ document: string, entry: string, peers: string[], parts: string[], seconds?: number }} defaults
 * @returns {Options}
 */
export function readOptions(argv, defaults) {
  const { values } = parseArgs({
    args: argv,
    options: {
      rounds: { type: "string", default: "5" },
      seconds: { type: "string" },
      only: { type: "string" },
      parts: { type: "string" },
      jsonl: { type: "boolean", default: false },
      write: { type: "string" },
      entry: { type: "string", default: defaults.entry },
    },
  });
  if (values.seconds !== undefined && defaults.seconds === undefined) throw new Error("--seconds is no option of this run");
  const complete = values.only === undefined && values.parts === undefined;
  return {
    rounds: positive("rounds", values.rounds, 100),
    seconds: defaults.seconds === undefined ? 0 : positive("seconds", values.seconds ?? String(defaults.seconds), 60),
    peers: chosen("only", values.only, defaults.peers),
    parts: chosen("parts", values.parts, defaults.parts),
    jsonl: values.jsonl,
    write: documentToWrite(values.write ?? (complete ? "yes" : "no"), defaults.document),
    entry: values.entry,
  };
}

/** `yes` and `no`, or a path of your own. */
function documentToWrite(/** @type {string} */ value, /** @type {string} */ standard) {
  if (value === "no") return null;
  return value === "yes" || value === "" ? standard : value;
}

function positive(/** @type {string} */ name, /** @type {string} */ text, /** @type {number} */ most) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > most) throw new Error(`--${name} is a whole number from 1 to ${most}`);
  return value;
}

function chosen(/** @type {string} */ name, /** @type {string | undefined} */ text, /** @type {string[]} */ all) {
  if (text === undefined) return new Set(all);
  const names = text.split(",").filter(Boolean);
  const unknown = names.filter((each) => !all.includes(each));
  if (unknown.length > 0 || names.length === 0) throw new Error(`--${name} is a comma list of ${all.join(", ")}`);
  return new Set(names);
}
