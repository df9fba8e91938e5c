import { nativeOf } from "./parts.mjs";

const FRAMEWORK = "@google-cloud/functions-framework";
/** What functions are deployed to; Google Cloud names it nodejs24. */
const ENGINES = { node: "24.x" };

/** The `package.json` of a function, or of the framework that lies in its folder. */
export function packageOf(name, root) {
  const { version, license } = root.packages[""];
  if (name === "framework")
    return {
      name: FRAMEWORK,
      version: frameworkVersion(root),
      license: "Apache-2.0",
      bin: { "functions-framework": "main.cjs" },
      main: "main.cjs",
    };
  return {
    name: `proxy-gpt-${name}`,
    version,
    license,
    private: true,
    main: "index.cjs",
    engines: ENGINES,
    scripts: { start: `functions-framework --target=${name}`, "gcp-build": "node warm.cjs" },
    dependencies: dependenciesOf(name, root),
  };
}

/** The `package-lock.json` that goes with it: the framework's folder, and native modules with all that they need. */
export function lockOf(name, root) {
  const { version, license, engines, dependencies } = packageOf(name, root);
  const { name: _, ...framework } = packageOf("framework", root);
  const packages = {
    "": { name: `proxy-gpt-${name}`, version, license, dependencies, engines },
    framework: { name: FRAMEWORK, version: framework.version, license: framework.license, bin: framework.bin },
    [`node_modules/${FRAMEWORK}`]: { resolved: "framework", link: true },
  };
  const add = (it) => {
    const path = `node_modules/${it}`;
    const { dev: _, ...entry } = root.packages[path] ?? {};
    if (packages[path]) return;
    packages[path] = entry;
    for (const needed of Object.keys(entry.dependencies ?? {})) add(needed);
  };
  for (const it of nativeOf(name)) add(it);
  return { name: `proxy-gpt-${name}`, version, lockfileVersion: 3, requires: true, packages: sorted(packages) };
}

const dependenciesOf = (name, root) => ({
  [FRAMEWORK]: "file:./framework",
  ...Object.fromEntries(nativeOf(name).map((it) => [it, root.packages[`node_modules/${it}`].version])),
});
const frameworkVersion = (root) => root.packages[`node_modules/${FRAMEWORK}`].version;
const sorted = (object) => Object.fromEntries(Object.entries(object).sort(([one], [other]) => (one < other ? -1 : 1)));
