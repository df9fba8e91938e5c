/**
 * Runs a bundle with what V8 had compiled of it when `keep` was called: every function that had been called by then, where
 * NODE_COMPILE_CACHE has those that are compiled as a file is read. V8 looks whether version, flags and text are the same; where
 * they are not, or nothing was kept, it compiles as it always does.
 */
const { readFileSync, renameSync, writeFileSync } = require("node:fs");
const { createRequire, wrap } = require("node:module");
const { dirname } = require("node:path");
const { Script } = require("node:vm");

const scripts = new Map();
const keptOf = (filename) => `${filename}.cache`;

/** Runs a file of CommonJS, and answers what it exports. */
exports.load = (filename) => {
  const text = readFileSync(filename, "utf8").replace(/^#!.*/, "");
  const [before] = wrap("\n").split("\n");
  const script = new Script(wrap(text), { filename, cachedData: kept(filename), columnOffset: -before.length });
  scripts.set(filename, script);
  const module = { exports: {} };
  script.runInThisContext().call(module.exports, module.exports, createRequire(filename), module, filename, dirname(filename));
  return module.exports;
};

/** Keeps, beside each file that was loaded, what is compiled of it by now. Nobody finds it half written. */
exports.keep = () => {
  for (const [filename, script] of scripts) {
    const unfinished = `${keptOf(filename)}.${process.pid}`;
    writeFileSync(unfinished, script.createCachedData());
    renameSync(unfinished, keptOf(filename));
  }
};

function kept(filename) {
  try {
    return readFileSync(keptOf(filename));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
}
