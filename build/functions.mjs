import { copyFile, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { build } from "esbuild";
import { lockOf, packageOf } from "./package.mjs";
import { laterOf, nativeOf, partsOf } from "./parts.mjs";
import { slimUndici } from "./undici.mjs";

/** The functions, as they are deployed. */
export const FUNCTIONS = ["user", "group", "chat", "proxy", "system", "mod", "img"];

/** CommonJS, because a module that imports `node:http` has Node load the whole of its `fetch`. */
const common = {
  bundle: true,
  platform: "node",
  target: "node20",
  format: "cjs",
  minify: true,
  sourcemap: "external",
  metafile: true,
  logLevel: "warning",
};

/** `dist/<name>`: a bundle, what is loaded later beside it, the framework, and a package of its own. Answers what is in each file. */
export async function buildFunction(name) {
  const folder = `dist/${name}`;
  await mkdir(folder, { recursive: true });
  const main = build({
    ...common,
    entryPoints: [`functions/${name}/index.ts`],
    outfile: `${folder}/index.cjs`,
    external: [...nativeOf(name), "bufferutil", "utf-8-validate"],
    define: { "import.meta.url": '"file:///"' },
    plugins: [partsOf(name), slimUndici],
  });
  const later = laterOf(name).map(([file, packages]) =>
    build({
      ...common,
      stdin: { contents: packages.map((it) => `export * from "${it}";${defaultOf(it)}`).join("\n"), resolveDir: "." },
      outfile: `${folder}/${file}.cjs`,
      external: ["bufferutil", "utf-8-validate"],
    }),
  );
  const framework = build({
    ...common,
    entryPoints: ["node_modules/@google-cloud/functions-framework/build/src/main.js"],
    outfile: `${folder}/framework/main.cjs`,
  });
  const results = await Promise.all([main, ...later, framework]);
  await apart(name, results);
  const root = JSON.parse(await readFile("package-lock.json", "utf8"));
  await writeFile(`${folder}/package.json`, json(packageOf(name, root)));
  await writeFile(`${folder}/package-lock.json`, json(lockOf(name, root)));
  await writeFile(`${folder}/framework/package.json`, json(packageOf("framework", root)));
  await copyFile("build/warm.cjs", `${folder}/warm.cjs`);
  return results.map(({ metafile }) => metafile);
}

/** Maps are for whoever reads a stack, and no part of what is deployed. */
async function apart(name, results) {
  const maps = results.flatMap(({ metafile }) => Object.keys(metafile.outputs)).filter((it) => it.endsWith(".map"));
  await mkdir(`dist/maps/${name}/framework`, { recursive: true });
  for (const map of maps) await rename(map, map.replace(/^dist\//, "dist/maps/"));
}

/** `export *` leaves out the default, which is what these packages are used by. */
const defaultOf = (name) => (["openai", "ws"].includes(name) ? `export { default } from "${name}";` : "");
const json = (value) => `${JSON.stringify(value, null, 2)}\n`;
