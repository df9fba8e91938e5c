import { execFile } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { NAMES, type Name, spawnFunction, startFunction, takesKept } from "./functions.ts";

// What is in each function's folder, what it asks for as it starts, and how it is installed.

const run = promisify(execFile);
/** Packages, and the functions that may hold them. argon2 is installed, and no part of a bundle. */
const ONLY: Record<string, readonly Name[]> = {
  openai: ["chat", "mod", "img"],
  ws: ["chat"],
  "@upstash/redis": ["group", "chat", "img"],
  "@neondatabase/serverless": NAMES,
  ...{ argon2: [], libsql: [], pg: [], ioredis: [], "@electric-sql/pglite": [] },
};
/** A store and a bus that nobody asks. */
const STORE = { DB_ADDRESS: "postgresql://nobody@nowhere.neon.tech/nothing" };
const BUS = { UPSTASH_REDIS_REST_URL: "https://nowhere.invalid", UPSTASH_REDIS_REST_TOKEN: "none" };
const UPSTREAM = { API_KEY: "none" };

let folder: string;
beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), "proxy-gpt-parts-")));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("what was built", () => {
  test.each(NAMES)("for %s holds its own parts, and no other function's", (name) => {
    const maps = readdirSync(`dist/maps/${name}`).filter((it) => it.endsWith(".map"));
    const sources = maps.flatMap((it) => JSON.parse(readFileSync(`dist/maps/${name}/${it}`, "utf8")).sources as string[]);
    const packages = new Set(sources.map((it) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(it)?.[1]));
    const held = Object.keys(ONLY).filter((it) => packages.has(it));
    expect(held).toEqual(Object.keys(ONLY).filter((it) => ONLY[it]?.includes(name)));
    const others = NAMES.filter((it) => it !== name).map((it) => `/functions/${it}/`);
    expect(sources.filter((it) => others.some((path) => it.includes(path)))).toEqual([]);

    const { dependencies } = JSON.parse(readFileSync(`dist/${name}/package.json`, "utf8"));
    const installed = ["@google-cloud/functions-framework", ...(name === "user" ? ["argon2"] : [])];
    expect(Object.keys(dependencies)).toEqual(installed);
  });

  test("the build fails where a bundle holds what it must not, or too much", async () => {
    const project = join(folder, "project");
    mkdirSync(project);
    for (const part of ["cli", "functions", "lib", "schema", "node_modules", "package.json", "package-lock.json"])
      symlinkSync(resolve(part), join(project, part));
    cpSync("build", join(project, "build"), { recursive: true });
    // One function, which is given everything, and less room than it takes.
    change(join(project, "build/functions.mjs"), /(?<=FUNCTIONS = )\[.*?\]/, '["mod"]');
    change(join(project, "build/parts.mjs"), /(?<=const missing = ).*(?=;)/, "['argon2']");
    change(join(project, "build/parts.mjs"), /(?<=const OF_ONE_MACHINE = ).*(?=;)/, "/^$/");
    change(join(project, "build/report.mjs"), /(?<=\bmod: )\d+/, "100");
    cpSync("build.mjs", join(project, "build.mjs"));
    const failed = await run(process.execPath, ["build.mjs"], { cwd: project }).catch((error) => error);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain("dist/mod/bundle.cjs holds ioredis");
    expect(failed.stderr).toMatch(/dist\/mod\/bundle\.cjs has \d+ KiB, and its budget is 100/);
  });
});

describe("a start that cannot succeed is one line on standard error and exit code 1, and nothing ever listens", () => {
  test.each<[what: string, name: Name, settings: Record<string, string>, line: RegExp]>([
    ["chat without the key", "chat", { ...STORE, ...BUS }, /^API_KEY is missing\.$/],
    ["proxy without the key", "proxy", STORE, /^API_KEY is missing\.$/],
    ["user on a store of its own", "user", { DB_ADDRESS: "file:proxy.db" }, /^DB_ADDRESS is missing or a file: .*\.$/],
    ["system without a store", "system", {}, /^DB_ADDRESS is missing or a file: .*\.$/],
    ["chat without a bus", "chat", { ...STORE, ...UPSTREAM }, /^UPSTASH_REDIS_REST_URL is missing: .*\.$/],
    [
      "group without the bus's token",
      "group",
      { ...STORE, ...BUS, UPSTASH_REDIS_REST_TOKEN: "" },
      /^UPSTASH_REDIS_REST_TOKEN is missing\.$/,
    ],
  ])("%s", async (_what, name, settings, line) => {
    const { url, ended, stderr, lines, stop } = await spawnFunction(name, settings);
    onTestFinished(() => void stop("SIGKILL"));
    let code: number | null | undefined;
    void ended.then((it) => {
      code = it;
    });
    const port = Number(new URL(url).port);
    let listened = false;
    while (code === undefined) if (await isOpen(port)) listened = true;
    expect({ code, listened, lines }).toEqual({ code: 1, listened: false, lines: [] });
    const said = (await stderr).split("\n");
    expect(said).toEqual([expect.any(String), ""]);
    expect(JSON.parse(said[0] ?? "")).toEqual({ severity: "CRITICAL", message: expect.stringMatching(line) });
  });

  test.each<[name: Name, settings: Record<string, string>]>([
    ["user", STORE],
    ["system", STORE],
    ["proxy", { ...STORE, ...UPSTREAM }],
    ["mod", { ...STORE, ...UPSTREAM }],
    ["group", { ...STORE, ...BUS }],
  ])("while %s starts with no more than what it needs", async (name, settings) => {
    const instance = await startFunction(name, settings);
    onTestFinished(() => void instance.stop("SIGKILL"));
    expect(await instance.stop("SIGTERM")).toBe(0);
    expect(await instance.stderr).toBe("");
  });
});

test("where a collector is set, spans and metrics go there by the library beside the bundle", async () => {
  const paths: string[] = [];
  const collector = createServer((req, res) => {
    paths.push(req.url ?? "");
    req.resume().on("end", () => res.end("{}"));
  }).listen(0, "127.0.0.1");
  onTestFinished(() => void collector.close());
  await once(collector, "listening");
  const { port } = collector.address() as AddressInfo;
  const settings = { ...STORE, ...UPSTREAM, OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}` };
  const { url, stop, stderr } = await startFunction("proxy", settings);
  onTestFinished(() => void stop("SIGKILL"));
  expect((await fetch(`${url}/v1/models`)).status).toBe(401);
  expect(await stop("SIGTERM")).toBe(0);
  expect(paths.sort()).toEqual(["/v1/metrics", "/v1/traces"]);
  expect(await stderr).toBe("");
});

describe("what a folder's own script keeps of a start", () => {
  const warmed = async (name: Name | "all", to: string) => {
    const copy = join(folder, to);
    cpSync(`dist/${name}`, copy, { recursive: true, filter: (it) => !it.endsWith(".cache") });
    const { stderr } = await run(process.execPath, [join(copy, "warm.cjs")]);
    return { copy, stderr };
  };
  test.each<Name | "all">([...NAMES, "all"])("of %s is taken by a later one, and nothing else is written", async (name) => {
    const { copy, stderr } = await warmed(name, `kept-${name}`);
    expect(stderr).toBe("");
    const kept = readdirSync(copy, { recursive: true }).filter((it) => !existsSync(join(`dist/${name}`, String(it))));
    const bundles = ["bundle.cjs", ...(name === "all" ? [] : ["framework/bundle.cjs"])];
    expect(kept.map(String).filter((it) => !it.endsWith(".cache"))).toEqual([]);
    for (const bundle of bundles) expect(await takesKept(join(copy, bundle)), bundle).toBe(true);
  });

  test("is passed over where it is another bundle's, or broken off, or nothing", async () => {
    const { copy } = await warmed("mod", "kept-badly");
    const file = join(copy, "bundle.cjs.cache");
    const whole = readFileSync(file);
    for (const other of [readFileSync(join(copy, "framework/bundle.cjs.cache")), whole.subarray(0, 100_000), Buffer.alloc(0)]) {
      writeFileSync(file, other);
      expect(await takesKept(join(copy, "bundle.cjs"))).toBe(false);
      const instance = await startFunction("mod", { ...STORE, ...UPSTREAM }, { folder: copy });
      onTestFinished(() => void instance.stop("SIGKILL"));
      expect((await fetch(`${instance.url}/nowhere`)).status).toBe(404);
      expect(await instance.stop("SIGTERM")).toBe(0);
      expect(await instance.stderr).toBe("");
    }
  });

  test("is not taken for another text that is as long", async () => {
    const { copy } = await warmed("mod", "kept-of-another");
    change(join(copy, "bundle.cjs"), /Hello, World!/, "Hello, Moon!!");
    expect(await takesKept(join(copy, "bundle.cjs"))).toBe(true);
    const instance = await startFunction("mod", { ...STORE, ...UPSTREAM }, { folder: copy });
    onTestFinished(() => void instance.stop("SIGKILL"));
    expect(await (await fetch(`${instance.url}/`)).text()).toBe("Hello, Moon!!");
    expect(await instance.stop("SIGTERM")).toBe(0);
  });

  test("is missing without harm where nothing could be started, which is said", async () => {
    const { copy } = await warmed("mod", "kept-nothing");
    rmSync(join(copy, "bundle.cjs.cache"));
    change(join(copy, "bundle.cjs"), /^/, "process.exit(3);");
    const { stderr } = await run(process.execPath, [join(copy, "warm.cjs")]);
    expect(stderr).toBe("mod could not be started before it is needed; each start will compile it\n");
    expect(existsSync(join(copy, "bundle.cjs.cache"))).toBe(false);
  });

  test("leaves each place in the code where its map has it", async () => {
    const { copy } = await warmed("mod", "kept-places");
    change(join(copy, "bundle.cjs"), /^/, 'throw new Error("here");');
    const started = await run(process.execPath, [join(copy, "index.cjs")]).catch((error) => error);
    const [place] = started.stderr.match(/bundle\.cjs:\d+:\d+/) ?? [];
    expect(place).toBe("bundle.cjs:1:7");
  });
});

describe("each folder is a package that npm installs from its lock file, without running a script", () => {
  test.each<[name: Name, settings: Record<string, string>]>([
    ["user", STORE],
    ["proxy", { ...STORE, ...UPSTREAM }],
  ])(
    "%s, and the framework is the one beside it",
    async (name, settings) => {
      const copy = join(folder, name);
      cpSync(`dist/${name}`, copy, { recursive: true });
      const npm = (...words: string[]) => run("npm", words, { cwd: copy });
      await npm("ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund");
      const { stdout } = await npm("exec", "--no", "--call", "command -v functions-framework");
      expect(realpathSync(stdout.trim())).toBe(join(copy, "framework/main.cjs"));
      // As it is built where it is deployed.
      await npm("run", "gcp-build");
      const instance = await startFunction(name, settings, { folder: copy, framework: "node_modules/.bin/functions-framework" });
      onTestFinished(() => void instance.stop("SIGKILL"));
      expect(await (await fetch(`${instance.url}/`)).text()).toBe("Hello, World!");
      expect(await instance.stop("SIGTERM")).toBe(0);
    },
    60_000,
  );

  test("user's has argon2, by its prebuilt binary", async () => {
    const script = 'require("argon2").hash("a password").then((it) => process.stdout.write(it))';
    const { stdout } = await run(process.execPath, ["-e", script], { cwd: join(folder, "user") });
    expect(stdout).toMatch(/^\$argon2id\$/);
  });
});

function change(file: string, what: RegExp, by: string): void {
  const before = readFileSync(file, "utf8");
  const after = before.replace(what, by);
  if (after === before) throw new Error(`${file} has no ${what}`);
  writeFileSync(file, after);
}

/** Whether anything listens there now. */
async function isOpen(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
