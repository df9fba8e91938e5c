import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { NEEDS } from "../../lib/needs.ts";
import { type NeonBridge, startNeonBridge } from "../bridge/neon.ts";
import { startUpstashBridge, type UpstashBridge } from "../bridge/upstash.ts";
import { KEY } from "../support/app.ts";
import { freePort } from "../support/ports.ts";
import { freshDatabase, postgresUrl } from "../support/postgres.ts";
import { redisUrl } from "../support/redis.ts";
import { startUpstream, type Upstream } from "../support/upstream.ts";

export type Name = keyof typeof NEEDS;
export const NAMES = Object.keys(NEEDS) as Name[];

type Settings = Readonly<Record<string, string>>;
/** A process as it runs: all that it sees of the environment is in `settings`. */
export type Instance = {
  id: string;
  url: string;
  settings: Settings;
  /** What it has logged. */
  lines: Record<string, unknown>[];
  stderr: Promise<string>;
  /** Resolves with the exit code; null where a signal was the end. */
  ended: Promise<number | null>;
  stop(signal: NodeJS.Signals): Promise<number | null>;
};

/** Which Node runs it, and where what was built lies, with the framework's command in there. */
export type Place = { node?: string; folder?: string; framework?: string };

let count = 0;

/** Starts a built function with the framework's own command, and answers before it listens. */
export async function spawnFunction(
  name: Name,
  given: Settings,
  { node = process.execPath, folder = `dist/${name}`, framework = "framework/main.cjs" }: Place = {},
): Promise<Instance> {
  if (!existsSync(folder)) throw new Error(`${folder} is missing: npm run build`);
  const words = [`${folder}/${framework}`, `--target=${name}`, `--source=${folder}/index.cjs`];
  return spawnInstance(name, words, { K_SERVICE: name, ...given }, node);
}

/** Starts Node with these words and settings, and a port to listen on. */
export async function spawnInstance(
  name: string,
  words: readonly string[],
  given: Settings,
  node = process.execPath,
): Promise<Instance> {
  const port = await freePort();
  const settings = { NODE_ENV: "production", PORT: String(port), ...given };
  const child = spawn(node, words, { env: settings, stdio: ["ignore", "pipe", "pipe"] });
  const lines: Record<string, unknown>[] = [];
  let rest = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    const whole = (rest + chunk).split("\n");
    rest = whole.pop() ?? "";
    lines.push(...whole.map((line) => JSON.parse(line)));
  });
  const ended = once(child, "close").then(([code]) => code as number | null);
  const stop = (signal: NodeJS.Signals) => {
    child.kill(signal);
    return ended;
  };
  return {
    id: `${name}-${++count}`,
    url: `http://127.0.0.1:${port}`,
    settings,
    lines,
    stderr: text(child.stderr),
    ended,
    stop,
  };
}

/** The same once it listens. */
export async function startFunction(name: Name, settings: Settings, place?: Place): Promise<Instance> {
  const instance = await spawnFunction(name, settings, place);
  await listening(instance);
  return instance;
}

/** Resolves when it listens. Throws with what it said where it ends before that. */
async function listening({ id, url, ended, stderr }: Instance): Promise<void> {
  let code: number | null | undefined;
  void ended.then((it) => {
    code = it;
  });
  while (!(await fetch(url).catch(() => null))) {
    if (code !== undefined) throw new Error(`${id} ended with ${code}: ${await stderr}`);
    await sleep(20);
  }
}

/** What they run on: a migrated database behind Neon's protocol, Redis behind Upstash's, and the scripted upstream. */
export type Ground = {
  database: { url: string };
  neon: NeonBridge;
  upstash: UpstashBridge;
  upstream: Upstream;
  /** All that a function is given. */
  settingsOf(name: Name): Settings;
  /** Runs the built command with the database's address. Fails where it does. */
  command(words: readonly string[], input?: string): Promise<string>;
  close(): Promise<void>;
};

export async function startGround(): Promise<Ground> {
  const [database, neon, upstash, upstream] = await Promise.all([
    freshDatabase(),
    startNeonBridge(postgresUrl as string),
    startUpstashBridge(redisUrl as string),
    startUpstream(),
  ]);
  const parts = {
    upstream: { API_KEY: KEY, API_URL: upstream.url },
    bus: { UPSTASH_REDIS_REST_URL: upstash.url, UPSTASH_REDIS_REST_TOKEN: upstash.token },
  };
  const command: Ground["command"] = async (words, input = "") => {
    const child = spawn(process.execPath, ["dist/local/main.mjs", ...words], { env: { DB_ADDRESS: database.url } });
    child.stdin.end(input);
    const [[code], out, err] = await Promise.all([once(child, "close"), text(child.stdout), text(child.stderr)]);
    if (code !== 0) throw new Error(`${words.join(" ")} ended with ${code}: ${err}`);
    return out;
  };
  await command(["migrate"]);
  return {
    database,
    neon,
    upstash,
    upstream,
    settingsOf: (name) => ({
      DB_ADDRESS: database.url,
      NEON_ENDPOINT: neon.endpoint,
      ...Object.assign({}, ...NEEDS[name].map((part) => parts[part])),
    }),
    command,
    close: async () => {
      await Promise.all([neon.close(), upstash.close(), upstream.close()]);
      await database.drop();
    },
  };
}

/** A deployment: by the function's name, the instances that requests go to. A test may change which. */
export type Cloud = Ground & { serving: Map<Name, Instance[]>; instances: readonly Instance[] };

/** Starts what is named, as often as it is named, each with what its own script keeps where it is deployed. */
export async function startCloud(names: readonly Name[], place: Place = {}): Promise<Cloud> {
  const ground = await startGround();
  for (const name of new Set(names)) await warm(`dist/${name}`, place.node);
  const instances = await Promise.all(names.map((name) => spawnFunction(name, ground.settingsOf(name), place)));
  const serving = new Map<Name, Instance[]>(names.map((name) => [name, []]));
  for (const [at, instance] of instances.entries()) serving.get(names[at] as Name)?.push(instance);
  return cloudOf(ground, instances, serving);
}

async function warm(folder: string, node = process.execPath): Promise<void> {
  const { stderr } = await promisify(execFile)(node, [`${folder}/warm.cjs`]);
  if (stderr !== "") throw new Error(stderr);
}

/** Whether V8 takes what was kept beside a bundle, of which the last four bytes are the bundle's checksum. */
export async function takesKept(bundle: string, node = process.execPath, flags: readonly string[] = []): Promise<boolean> {
  const script = `
    const { wrap } = require("node:module"), { readFileSync } = require("node:fs"), { Script } = require("node:vm");
    const text = readFileSync(process.argv[1], "utf8").replace(/^#!.*/, "");
    const cachedData = readFileSync(process.argv[1] + ".cache").subarray(0, -4);
    process.stdout.write(String(new Script(wrap(text), { cachedData }).cachedDataRejected));`;
  return (await promisify(execFile)(node, [...flags, "-e", script, bundle])).stdout === "false";
}

/** Two processes, each of which is every function: of the bundle for one service in the cloud, or of the command on one machine. */
export async function startServices(form: "all" | "local"): Promise<Cloud> {
  const ground = await startGround();
  const settings = {
    all: { K_SERVICE: "proxy-gpt", ...ground.settingsOf("chat") },
    local: {
      ...{ API_KEY: KEY, API_URL: ground.upstream.url, DB_ADDRESS: ground.database.url, REDIS_ADDRESS: redisUrl as string },
      ...{ SIGNUP: "closed", TRUST_HOPS: "1" },
    },
  }[form];
  if (form === "all") await warm("dist/all");
  const words = { all: ["dist/all/index.cjs"], local: ["dist/local/main.mjs", "start"] }[form];
  const instances = await Promise.all(["one", "two"].map((name) => spawnInstance(name, words, settings)));
  return cloudOf(ground, instances, new Map(NAMES.map((name) => [name, [...instances]])));
}

/** Resolves when all of them listen. Ends what was started where one of them does not. */
async function cloudOf(ground: Ground, instances: readonly Instance[], serving: Map<Name, Instance[]>): Promise<Cloud> {
  const close = async () => {
    await Promise.all(instances.map((it) => it.stop("SIGKILL")));
    await ground.close();
  };
  await Promise.all(instances.map(listening)).catch(async (error) => {
    await close();
    throw error;
  });
  return { ...ground, serving, instances, close };
}
