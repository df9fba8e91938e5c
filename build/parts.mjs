/** All of them in one service. */
export const ALL = "all";

/** Packages that are heavy, native, or hold the use of a secret, and the functions that are given them; any other holds none of them. */
export const PARTS = {
  argon2: ["user", ALL],
  openai: ["chat", "img", "mod", ALL],
  ws: ["chat", ALL],
  libsql: [],
  pg: [],
  ioredis: [],
  "@electric-sql/pglite": [],
};

/** Native modules are no part of a bundle: the function's own package names them. */
export const nativeOf = (name) => ["argon2"].filter((it) => PARTS[it].includes(name));

/** What is loaded when it is first needed, from a file of its own beside the bundle, so that no start has to read it. */
export const LATER = {
  openai: ["openai"],
  ws: ["ws"],
  opentelemetry: [
    ...["@opentelemetry/api", "@opentelemetry/resources", "@opentelemetry/sdk-metrics", "@opentelemetry/sdk-trace"],
    ...["@opentelemetry/exporter-metrics-otlp-http", "@opentelemetry/exporter-trace-otlp-http"],
  ],
};

/** The files beside a function's bundle. */
export const laterOf = (name) =>
  Object.entries(LATER).filter(([, packages]) => packages.every((it) => PARTS[it]?.includes(name) ?? true));

/** The adapters of one machine, and that of the bus, which few functions need. */
const OF_ONE_MACHINE = /[\\/]lib[\\/](store[\\/](sqlite|postgres)|bus[\\/]redis)\.ts$/;
const BUS = /[\\/]lib[\\/]bus[\\/]upstash\.ts$/;
const ON_THE_BUS = ["group", "chat", "img", ALL];

/** Leaves out what is not a function's to have, which is an error where it is used all the same, and what is loaded later. */
export const partsOf = (name) => ({
  name: "parts",
  setup({ onResolve, onLoad }) {
    const absent = (what) => `throw new Error(${JSON.stringify(`${what} is not part of ${name}`)});`;
    const missing = Object.keys(PARTS).filter((it) => !PARTS[it].includes(name));
    onResolve({ filter: exactly(missing) }, ({ path }) => ({ path, namespace: "absent" }));
    onLoad({ filter: /.*/, namespace: "absent" }, ({ path }) => ({
      contents: `${absent(path)} module.exports = {};`,
      loader: "js",
    }));
    onLoad({ filter: OF_ONE_MACHINE }, ({ path }) => ({ contents: absent(path.split(/[\\/]/).at(-1)), loader: "js" }));
    if (!ON_THE_BUS.includes(name)) onLoad({ filter: BUS }, () => ({ contents: absent("the bus"), loader: "js" }));
    for (const [file, packages] of laterOf(name))
      onResolve({ filter: exactly(packages) }, () => ({ path: `./${file}.cjs`, external: true }));
  },
});

const exactly = (names) => new RegExp(`^(${names.join("|")})$`);
