import { rm } from "node:fs/promises";
import { build } from "esbuild";

/** Native modules ship prebuilt and stay outside; drivers are loaded by their adapters alone. */
const EXTERNAL = ["libsql", "argon2", "pg", "pg-native", "bufferutil", "utf-8-validate"];
const FUNCTIONS = ["user", "group", "chat", "proxy", "system", "mod", "img"];
/** What one machine needs is not in the cloud: its adapters are left out of a function's bundle. */
const NOT_IN_CLOUD = /\/lib\/(store\/(sqlite|postgres)|bus\/redis)\.ts$/;

const common = {
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
};

/** `dist/local`: the command. `dist/<function>`: what functions-framework runs. */
const local = () =>
  build({
    ...common,
    entryPoints: ["cli/main.ts"],
    outdir: "dist/local",
    outExtension: { ".js": ".mjs" },
    splitting: true,
    chunkNames: "[name]-[hash]",
  });

const cloud = (name) =>
  build({
    ...common,
    entryPoints: [`functions/${name}/index.ts`],
    outfile: `dist/${name}/index.mjs`,
    plugins: [{ name: "not-in-cloud", setup: leaveOutAdapters }],
  });

function leaveOutAdapters({ onLoad }) {
  onLoad({ filter: NOT_IN_CLOUD }, ({ path }) => ({
    contents: `throw new Error(${JSON.stringify(`${path.split("/").at(-1)} is not part of a function`)});`,
    loader: "js",
  }));
}

const only = process.argv[2];
if (only === undefined) await rm("dist", { recursive: true, force: true });
else await rm("dist/local", { recursive: true, force: true });
await local();
if (only === undefined) await Promise.all(FUNCTIONS.map(cloud));
