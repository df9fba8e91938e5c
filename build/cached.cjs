/**
 * Runs a bundle with what V8 had compiled of it when `keep` was called: every function that had been called by then, where
 * NODE_COMPILE_CACHE has those that are compiled as a file is read. V8 looks whether its version and flags are the same, but of
 * the text only how long it is, so behind what is kept stands the text's checksum. Where anything differs, or nothing was kept,
 * V8 compiles as it always does.
 */
const { readFileSync, renameSync, writeFileSync } = require("node:fs");
const { createRequire, wrap } = require("node:module");
const { dirname } = require("node:path");
const { Script } = require("node:vm");
const { crc32 } = require("node:zlib");

const scripts = new Map();
const keptOf = (filename) => `${filename}.cache`;

/** Runs a file of CommonJS, and answers what it exports. */
exports.load = (filename) => {
  const text = readFileSync(filename, "utf8").replace(/^#!.*/, "");
  const [before] = wrap("\n").split("\n");
  const script = new Script(wrap(text), { filename, cachedData: kept(filename, text), columnOffset: -before.length });
  scripts.set(filename, { script, text });
  const module = { exports: {} };
  script.runInThisContext().call(module.exports, module.exports, createRequire(filename), module, filename, dirname(filename));
  return module.exports;
};

/** Keeps, beside each file that was loaded, what is compiled of it by now. Nobody finds it half written. */
exports.keep = () => {
  for (const [filename, { script, text }] of scripts) {
    const unfinished = `${keptOf(filename)}.${process.pid}`;
    writeFileSync(unfinished, Buffer.concat([script.createCachedData(), checksum(text)]));
    renameSync(unfinished, keptOf(filename));
  }
};

function kept(filename, text) {
  try {
    const bytes = readFileSync(keptOf(filename));
    const sum = checksum(text);
    return bytes.subarray(-sum.length).equals(sum) ? bytes.subarray(0, -sum.length) : undefined;
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
}

function checksum(text) {
  const sum = Buffer.alloc(4);
  sum.writeUInt32LE(crc32(text));
  return sum;
}
