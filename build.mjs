import { rm } from "node:fs/promises";
import { build } from "esbuild";
import { buildFunction, FUNCTIONS } from "./build/functions.mjs";
import { ALL } from "./build/parts.mjs";
import { reportOn } from "./build/report.mjs";

/** Native modules ship prebuilt and stay outside; drivers are loaded by their adapters alone. */
const EXTERNAL = ["libsql", "argon2", "pg", "pg-native", "bufferutil", "utf-8-validate"];

/** `dist/local`: the command. */
const local = () =>
  build({
    entryPoints: ["cli/main.ts"],
    outdir: "dist/local",
    outExtension: { ".js": ".mjs" },
    splitting: true,
    chunkNames: "[name]-[hash]",
    bundle: true,
    platform: "node",
    target: "node20",
    format: "esm",
    minify: true,
    sourcemap: true,
    external: EXTERNAL,
    logLevel: "warning",
    // Bundled CommonJS asks for `require`, which a module does not have.
    banner: {
      js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);',
    },
  });

/** `dist/<function>`: what functions-framework runs. Says what is in each, and fails where that is too much. */
async function functions() {
  const problems = [];
  console.log("function  KiB         the largest parts");
  for (const name of [...FUNCTIONS, ALL]) {
    const report = reportOn(name, await buildFunction(name));
    console.log(report.line);
    problems.push(...report.problems);
  }
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) process.exitCode = 1;
}

// `node build.mjs local` builds the command alone.
const [only] = process.argv.slice(2);
await rm(only === undefined ? "dist" : "dist/local", { recursive: true, force: true });
await local();
if (only === undefined) await functions();
