/**
 * A database of its own for the run: on the server of BENCH_POSTGRES_URL, or on one started here in a temporary folder
 * with its standard settings. Dropped, and the server stopped, when the run ends.
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { freePort } from "../harness/http.mjs";
import { cleanEnvironment, lastLines, start } from "../harness/processes.mjs";

const DATABASE = `proxy_gpt_bench_${process.pid}`;

/**
 * @typedef {object} Database
 * @property {string} url
 * @property {number | null} pid  the server's first process, when it was started here
 * @property {string} version
 * @property {() => Promise<void>} stop
 */

/** @param {{ cpu: number | null }} options @returns {Promise<Database>} */
export async function openDatabase({ cpu }) {
  const given = process.env.BENCH_POSTGRES_URL;
  const server = given ? { url: given, pid: null, stop: async () => {} } : await startServer(cpu);
  try {
    await execute(server.url, `create database ${DATABASE}`);
    const [row] = await execute(server.url, "show server_version");
    const url = new URL(server.url);
    url.pathname = `/${DATABASE}`;
    const stop = async () => {
      await execute(server.url, `drop database if exists ${DATABASE} with (force)`);
      await server.stop();
    };
    return { url: url.href, pid: server.pid, version: String(row?.server_version), stop };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Whether this machine can give the run a Postgres at all; if not, why. @returns {string | null} */
export function whyNoPostgres() {
  if (process.env.BENCH_POSTGRES_URL) return null;
  if (programFolder() === null) return "no Postgres server here (apt-get install postgresql, or set BENCH_POSTGRES_URL)";
  if (serverUser() === undefined) return "Postgres refuses to run as root and there is no user postgres (set BENCH_POSTGRES_URL)";
  return null;
}

/** @param {string} url @param {string} sql @returns {Promise<Record<string, unknown>[]>} */
export async function execute(url, sql) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

async function startServer(/** @type {number | null} */ cpu) {
  const programs = /** @type {string} */ (programFolder());
  const user = serverUser() ?? null;
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "proxy-gpt-bench-postgres-"));
  const passwordFile = path.join(folder, "password");
  const password = randomBytes(18).toString("hex");
  fs.writeFileSync(passwordFile, password, { mode: 0o600 });
  if (user !== null) for (const file of [folder, passwordFile]) fs.chownSync(file, user.uid, user.gid);

  const data = path.join(folder, "data");
  const setup = ["-D", data, "-U", "postgres", `--pwfile=${passwordFile}`, "--auth=scram-sha-256", "-E", "UTF8", "--locale=C"];
  execFileSync(path.join(programs, "initdb"), setup, { cwd: folder, env: cleanEnvironment(), stdio: "pipe", ...user });

  const port = await freePort();
  const running = start({
    name: "postgres",
    command: path.join(programs, "postgres"),
    args: ["-D", data, "-p", String(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
    logFile: path.join(folder, "server.log"),
    cwd: folder,
    cpu,
    ...(user !== null && { user }),
    signals: { stop: "SIGINT", kill: "SIGQUIT", children: false }, // SIGTERM would wait for its clients
  });
  const removeFolder = () => fs.rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  process.once("exit", removeFolder);
  const stop = async () => {
    await running.stop();
    removeFolder();
    process.off("exit", removeFolder);
  };
  const url = `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
  for (let attempt = 0; attempt < 100; attempt++) {
    const ready = await execute(url, "select 1").catch(() => null);
    if (ready !== null) return { url, pid: running.pid, stop };
    if (running.ended()) break;
    await sleep(100);
  }
  const report = lastLines(running.logFile);
  await stop();
  throw new Error(`Postgres did not start:\n${report}`);
}

/** The folder of the newest installed server. */
function programFolder() {
  const root = "/usr/lib/postgresql";
  const versions = fs.existsSync(root) ? fs.readdirSync(root).sort((a, b) => Number(b) - Number(a)) : [];
  const folders = [...versions.map((version) => path.join(root, version, "bin")), ...(process.env.PATH ?? "").split(":")];
  return folders.find((folder) => fs.existsSync(path.join(folder, "initdb"))) ?? null;
}

/** Null for whoever runs this, the user postgres for root, undefined when root finds no such user. */
function serverUser() {
  if (process.getuid?.() !== 0) return null;
  const entry = fs
    .readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .find((line) => line.startsWith("postgres:"));
  if (entry === undefined) return undefined;
  const [, , uid, gid] = entry.split(":");
  return { uid: Number(uid), gid: Number(gid) };
}
