import { parseArgs } from "node:util";

export const PEER_NAMES = ["direct", "relay", "nginx", "portkey", "sqlite", "postgres"];
export const PART_NAMES = ["closed", "rate", "stream", "hangup", "memory", "start"];

/**
 * @typedef {object} Options
 * @property {number} rounds   how often every peer is measured in turn
 * @property {number} seconds  length of one closed-loop measurement
 * @property {Set<string>} peers
 * @property {Set<string>} parts
 * @property {boolean} jsonl
 * @property {string | null} write  the document to write, null for none
 * @property {string} entry  the built server that is measured
 */

/**
 * @param {string[]} argv
 * @param {{ document: string, entry: string }} defaults
 * @returns {Options}
 */
export function readOptions(argv, defaults) {
  const { values } = parseArgs({
    args: argv,
    options: {
      rounds: { type: "string", default: "5" },
      seconds: { type: "string", default: "2" },
      only: { type: "string" },
      parts: { type: "string" },
      jsonl: { type: "boolean", default: false },
      write: { type: "string" },
      entry: { type: "string", default: defaults.entry },
    },
  });
  const complete = values.only === undefined && values.parts === undefined;
  return {
    rounds: positive("rounds", values.rounds, 100),
    seconds: positive("seconds", values.seconds, 60),
    peers: chosen("only", values.only, PEER_NAMES),
    parts: chosen("parts", values.parts, PART_NAMES),
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
