import { ALL, nativeOf } from "./parts.mjs";

const FRAMEWORK = "@google-cloud/functions-framework";
/** What is deployed to; Google Cloud names it nodejs24. */
const ENGINES = { node: "24.x" };

/** The `package.json` of a function, or of all in one service, which needs no framework. */
export function packageOf(name, root) {
  const { version, license } = root.packages[""];
  const start = name === ALL ? "node index.cjs" : `functions-framework --target=${name}`;
  return {
    name: `proxy-gpt-${name}`,
    version,
    license,
    private: true,
    main: "index.cjs",
    engines: ENGINES,
    scripts: { start, "gcp-build": "node warm.cjs" },
    dependencies: dependenciesOf(name, root),
  };
}

/** That of the framework, which lies in a function's folder as one file. */
export const frameworkPackage = (root) => ({
  name: FRAMEWORK,
  version: root.packages[`node_modules/${FRAMEWORK}`].version,
  license: "Apache-2.0",
  bin: { "functions-framework": "main.cjs" },
  main: "main.cjs",
});

/** The `package-lock.json` that goes with it: the framework's folder, and native modules with all that they need. */
export function lockOf(name, root) {
  const { name: id, version, license, engines, dependencies } = packageOf(name, root);
  const { main: _, ...framework } = frameworkPackage(root);
  const framed = { framework, [`node_modules/${FRAMEWORK}`]: { resolved: "framework", link: true } };
  const packages = { "": { name: id, version, license, dependencies, engines }, ...(name !== ALL && framed) };
  const add = (it) => {
    const path = `node_modules/${it}`;
    if (packages[path]) return;
    const { dev: _, ...entry } = root.packages[path];
    packages[path] = entry;
    for (const needed of Object.keys(entry.dependencies ?? {})) add(needed);
  };
  for (const it of nativeOf(name)) add(it);
  return { name: id, version, lockfileVersion: 3, requires: true, packages: sorted(packages) };
}

const dependenciesOf = (name, root) => ({
  ...(name !== ALL && { [FRAMEWORK]: "file:./framework" }),
  ...Object.fromEntries(nativeOf(name).map((it) => [it, root.packages[`node_modules/${it}`].version])),
});
const sorted = (object) => Object.fromEntries(Object.entries(object).sort(([one], [other]) => (one < other ? -1 : 1)));
