/**
 * Starts this folder's function once, where it is installed for good, so that what Node compiles is kept in `.compile-cache`
 * (Node 22.1 and later), from where every instance reads it. No store or upstream is asked.
 */
const { spawn } = require("node:child_process");
const { join } = require("node:path");
const { get } = require("node:http");

const PORT = 18_080;
const DEADLINE_MS = 30_000;
const target = require("./package.json").name.replace("proxy-gpt-", "");
const nowhere = {
  K_SERVICE: target,
  DB_ADDRESS: "postgresql://nobody@nowhere.neon.tech/nothing",
  UPSTASH_REDIS_REST_URL: "https://nowhere.invalid",
  UPSTASH_REDIS_REST_TOKEN: "none",
  API_KEY: "none",
};
const env = { PATH: process.env.PATH, NODE_ENV: "production", ...nowhere, PORT: String(PORT) };
const framework = join(__dirname, "framework/main.cjs");
const source = join(__dirname, "index.cjs");
const child = spawn(process.execPath, [framework, `--target=${target}`, `--source=${source}`], {
  env: { ...env, NODE_COMPILE_CACHE: process.argv[2] ?? join(__dirname, ".compile-cache") },
  stdio: ["ignore", "ignore", "inherit"],
});
const late = setTimeout(() => child.kill("SIGKILL"), DEADLINE_MS);
const ask = () =>
  get({ port: PORT, path: "/", agent: false }, (res) => {
    res.resume();
    // What was compiled is written as the process ends.
    child.kill("SIGTERM");
  }).on("error", () => setTimeout(ask, 20));
ask();
child.once("exit", (code, signal) => {
  clearTimeout(late);
  if (code !== 0) process.stderr.write(`${target} did not start (${signal ?? code}); it will have no compile cache\n`);
  process.exit(0);
});
