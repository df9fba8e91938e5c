import { copyFile, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { build } from "esbuild";
import { frameworkPackage, lockOf, packageOf } from "./package.mjs";
import { ALL, laterOf, nativeOf, partsOf } from "./parts.mjs";
import { slimUndici } from "./undici.mjs";

/** The functions, as they are deployed. */
export const FUNCTIONS = ["user", "group", "chat", "proxy", "system", "mod", "img"];

const BUNDLE = "bundle.cjs";
/** What is loaded in its place. */
const CACHED = `#!/usr/bin/env node
module.exports = require("./cached.cjs").load(\`\${__dirname}/${BUNDLE}\`);\n`;

/** What `ws` takes where it is installed. */
const OPTIONAL = ["bufferutil", "utf-8-validate"];

/** CommonJS, because a module that imports `node:http` has Node load the whole of its `fetch`. */
const common = {
  bundle: true,
  platform: "node",
  target: "node20",
  format: "cjs",
  minify: true,
  sourcemap: "external",
  metafile: true,
  // A file beside is required: for an import Node would start another loader, which reads it through once more.
  supported: { "dynamic-import": false },
  logLevel: "warning",
};

/** `dist/<name>`: a bundle, what is loaded later beside it, and a package of its own. Answers what is in each file. */
export async function buildFunction(name) {
  const folder = `dist/${name}`;
  await mkdir(folder, { recursive: true });
  const main = build({
    ...common,
    entryPoints: [name === ALL ? "cli/service.ts" : `functions/${name}/index.ts`],
    outfile: `${folder}/${BUNDLE}`,
    external: [...nativeOf(name), ...OPTIONAL],
    define: { "import.meta.url": '"file:///"' },
    plugins: [partsOf(name), slimUndici],
  });
  const later = laterOf(name).map(([file, packages]) =>
    build({
      ...common,
      stdin: { contents: packages.map((it) => `export * from "${it}";`).join("\n"), resolveDir: "." },
      outfile: `${folder}/${file}.cjs`,
      external: OPTIONAL,
    }),
  );
  const root = JSON.parse(await readFile("package-lock.json", "utf8"));
  const results = await Promise.all([main, ...later, ...(name === ALL ? [] : [framework(folder, root)])]);
  await apart(name, results);
  await cached(folder, "index.cjs");
  await copyFile("build/warm.cjs", `${folder}/warm.cjs`);
  await writeFile(`${folder}/package.json`, json(packageOf(name, root)));
  await writeFile(`${folder}/package-lock.json`, json(lockOf(name, root)));
  return results.map(({ metafile }) => metafile);
}

/** What starts a function. */
async function framework(folder, root) {
  const built = await build({
    ...common,
    entryPoints: ["node_modules/@google-cloud/functions-framework/build/src/main.js"],
    outfile: `${folder}/framework/${BUNDLE}`,
  });
  await writeFile(`${folder}/framework/package.json`, json(frameworkPackage(root)));
  await cached(`${folder}/framework`, "main.cjs");
  return built;
}

/** The file by which a folder's bundle is loaded with what is compiled of it already. */
async function cached(folder, file) {
  await writeFile(`${folder}/${file}`, CACHED, { mode: 0o755 });
  await copyFile("build/cached.cjs", `${folder}/cached.cjs`);
}

/** Maps are for whoever reads a stack, and no part of what is deployed. */
async function apart(name, results) {
  const maps = results.flatMap(({ metafile }) => Object.keys(metafile.outputs)).filter((it) => it.endsWith(".map"));
  await mkdir(`dist/maps/${name}/framework`, { recursive: true });
  for (const map of maps) await rename(map, map.replace(/^dist\//, "dist/maps/"));
}

const json = (value) => `${JSON.stringify(value, null, 2)}\n`;
