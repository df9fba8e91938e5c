/**
 * Starts what is in this folder once, where it is installed for good, and asks it what needs no store and no upstream; what was
 * compiled for that is kept (`cached.cjs`), and every instance begins with it. Where that fails a start only takes longer.
 */
const { existsSync } = require("node:fs");
const { get } = require("node:http");
const { createServer } = require("node:net");
const { join } = require("node:path");

const DEADLINE_MS = 30_000;
/** A greeting, and a path that nothing has, for which all is loaded. */
const PATHS = ["/", "/nowhere"];
const framework = join(__dirname, "framework/cached.cjs");
const bundles = [...(existsSync(framework) ? [framework] : []), join(__dirname, "cached.cjs")];
const target = require("./package.json").name.replace("proxy-gpt-", "");

process.env = {
  PATH: process.env.PATH,
  NODE_ENV: "production",
  K_SERVICE: target,
  DB_ADDRESS: "postgresql://nobody@nowhere.neon.tech/nothing",
  UPSTASH_REDIS_REST_URL: "https://nowhere.invalid",
  UPSTASH_REDIS_REST_TOKEN: "none",
  API_KEY: "none",
};
process.argv.push(`--target=${target}`, `--source=${join(__dirname, "index.cjs")}`);

let kept = false;
process.once("exit", () => {
  if (!kept) process.stderr.write(`${target} could not be started before it is needed; each start will compile it\n`);
  process.exitCode = 0;
});
setTimeout(() => process.exit(), DEADLINE_MS);

const ask = (port, [path, ...more]) => {
  if (path === undefined) {
    for (const bundle of bundles) require(bundle).keep();
    kept = true;
    process.exit();
  }
  const next = (res) => res.resume().once("end", () => ask(port, more));
  get({ port, path, agent: false }, next).once("error", () => setTimeout(ask, 20, port, [path, ...more]));
};
const begin = (port) => {
  process.env.PORT = String(port);
  require(bundles.length > 1 ? "./framework/main.cjs" : "./index.cjs");
  ask(port, PATHS);
};
const holder = createServer().listen(0, () => {
  const { port } = holder.address();
  holder.close(() => begin(port));
});
