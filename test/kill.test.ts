import { execFile } from "node:child_process";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type EventRow, search, stateOf } from "../lib/repo/events.ts";
import { openPostgres } from "../lib/store/postgres.ts";
import { openSqlite } from "../lib/store/sqlite.ts";
import type { Store } from "../lib/store/store.ts";
import { PASSWORD } from "./support/app.ts";
import { buildCommand, type Command } from "./support/command.ts";
import { freshDatabase, skippedWithoutPostgres } from "./support/postgres.ts";
import { random, seed, trials } from "./support/seed.ts";
import { type Server, serve } from "./support/server.ts";
import { faults, startUpstream, type Upstream } from "./support/upstream.ts";

const CALLS = 100;

let upstream: Upstream;
let command: Command;
let folder: string;
const started = new Set<Server>();

beforeAll(async () => {
  upstream = await startUpstream();
  folder = await mkdtemp(join(tmpdir(), "proxy-gpt-kill-"));
  const limits = { SIGNIN_PER_MINUTE: "10000", SIGNUP_PER_HOUR: "10000" };
  command = await buildCommand({ API_KEY: "sk-of-a-test-0123456789", API_URL: upstream.url, ...limits });
});
afterEach(async () => {
  await Promise.all([...started].map((server) => server.stop("SIGKILL")));
  started.clear();
  upstream.reset();
});
afterAll(async () => {
  command?.remove();
  await upstream?.close();
  await rm(folder, { recursive: true });
});

async function start(env: Record<string, string>): Promise<Server> {
  const server = await serve(command, env);
  started.add(server);
  return server;
}
const sqliteFile = (name: string) => join(folder, `${name}.db`);

/** Signs somebody up; the first of a store is an admin. Answers the token. */
async function signUp({ url }: Server, username: string): Promise<string> {
  const body = new URLSearchParams({ username, password: PASSWORD });
  const answer = await fetch(`${url}/user/signup`, { method: "POST", body });
  return ((await answer.json()) as { token: string }).token;
}

type Asked = { whole: boolean; status: number };

/** Asks for a completion under a name of its own, and reads all of the answer. */
async function ask({ url }: Server, token: string, name: string, body: object = {}): Promise<Asked> {
  const answer = await fetch(`${url}/v1/chat/completions?call=${name}`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "Hello" }], ...body }),
  });
  const text = await answer.text();
  return { status: answer.status, whole: text.length > 0 };
}

/** The names under which the upstream was asked. */
const seen = () => upstream.requests.map(({ target }) => new URL(target, upstream.url).searchParams.get("call") ?? "");

async function eventsByCall(store: Store): Promise<Map<string, EventRow>> {
  const rows = (await search(store, { endpoint: "proxy.v1", limit: 1_000_000 })).filter(({ query }) => query !== "");
  const byCall = new Map(rows.map((row) => [row.query.replace("call=", ""), row]));
  expect(byCall.size).toBe(rows.length);
  return byCall;
}

describe("kill -9 in the middle of work loses no event of a call that the upstream saw, and no acknowledged end", () => {
  const rounds = trials(3);

  /** Each round begins on what the one before left behind. */
  const killAgainAndAgain = async (address: string, open: () => Store) => {
    const chance = random(seed);
    const whole = new Set<string>();
    const reached = new Set<string>();
    upstream.when(({ target }) => target.endsWith("slow"), faults.stream({ chunks: 400, gapMs: 5 }));
    let token = "";
    for (let round = 0; round < rounds; round++) {
      const server = await start({ DB_ADDRESS: address });
      token ||= await signUp(server, `killer-${round}`);
      const calls = Array.from({ length: CALLS }, async (_, i) => {
        const style = chance();
        const name = `${round}-${i}-${style < 0.3 ? "slow" : "quick"}`;
        const asked = await ask(server, token, name, { stream: style < 0.6 }).catch(() => null);
        if (asked?.status === 200 && asked.whole) whole.add(name);
      });
      await upstream.waitFor(1 + Math.floor(chance() * CALLS * 0.9));
      await server.stop("SIGKILL");
      started.delete(server);
      await Promise.all(calls);
      for (const name of seen()) reached.add(name);
      upstream.requests.length = 0;

      const store = open();
      const byCall = await eventsByCall(store);
      expect([...reached].filter((name) => !byCall.has(name))).toEqual([]);
      expect([...whole].filter((name) => byCall.get(name)?.endedAt == null)).toEqual([]);
      await store.close();
    }

    const server = await start({ DB_ADDRESS: address });
    expect((await ask(server, token, "after")).status).toBe(200);
    const store = open();
    const rows = [...(await eventsByCall(store)).values()];
    const unfinished = rows.filter(({ endedAt }) => endedAt === null);
    expect(unfinished.length).toBeGreaterThan(0);
    expect(new Set(unfinished.map((row) => stateOf(row, Number.POSITIVE_INFINITY)))).toEqual(new Set(["interrupted"]));
    const answer = await fetch(`${server.url}/system/events?endpoint=proxy.v1&limit=1000`, {
      headers: { authorization: `Bearer ${token}` },
    });
    const listed = ((await answer.json()) as { events: { id: string; state: string }[] }).events;
    const states = new Map(listed.map(({ id, state }) => [id, state]));
    const newest = unfinished.filter(({ id }) => states.has(id));
    expect(newest.map(({ id }) => states.get(id))).toEqual(newest.map(() => "running"));
    await store.close();
    return rows;
  };

  test(`SQLite (seed ${seed}, ${rounds} rounds)`, { timeout: 10_000 + rounds * 10_000 }, async () => {
    const file = sqliteFile("killed");
    await killAgainAndAgain(`file:${file}`, () => openSqlite(file));
    const store = openSqlite(file);
    expect(await store.run([{ sql: "pragma integrity_check", params: [] }])).toEqual([[["ok"]]]);
    await store.close();
  });

  test.skipIf(skippedWithoutPostgres("kill -9 on Postgres"))(
    `Postgres (seed ${seed}, ${rounds} rounds)`,
    { timeout: 10_000 + rounds * 10_000 },
    async () => {
      const database = await freshDatabase();
      await killAgainAndAgain(database.url, () => openPostgres(database.url));
      await Promise.all([...started].map((server) => server.stop("SIGKILL")));
      started.clear();
      await database.drop();
    },
  );
});

describe("the process", () => {
  test("two on one SQLite file both work, from the first start on", async () => {
    const file = sqliteFile("shared");
    const [one, two] = await Promise.all([start({ DB_ADDRESS: `file:${file}` }), start({ DB_ADDRESS: `file:${file}` })]);
    const token = await signUp(one, "anna");
    const calls = [one, two].flatMap((server, s) => Array.from({ length: 50 }, (_, i) => ask(server, token, `${s}-${i}`)));
    expect((await Promise.all(calls)).map(({ status }) => status)).toEqual(calls.map(() => 200));
    const store = openSqlite(file);
    const rows = [...(await eventsByCall(store)).values()];
    expect(rows.filter(({ endedAt }) => endedAt !== null)).toHaveLength(100);
    const [counted] = await store.db.select().from(store.usage);
    expect(counted?.requests).toBe(100);
    await store.close();
    expect(await Promise.all([one.stop("SIGTERM"), two.stop("SIGTERM")])).toEqual([0, 0]);
  });

  test("SIGTERM lets a running stream finish and its event be completed, then ends with 0", async () => {
    const file = sqliteFile("stopped");
    const server = await start({ DB_ADDRESS: `file:${file}` });
    const token = await signUp(server, "anna");
    upstream.next(faults.stream({ chunks: 60, gapMs: 10, usage: true }));
    const running = await fetch(`${server.url}/v1/chat/completions?call=running`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ model: "gpt-4o", stream: true, messages: [] }),
    });
    const reader = (running.body as ReadableStream<Uint8Array>).getReader();
    const parts: Uint8Array[] = [];
    let ended: Promise<number | null> | undefined;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts.push(part.value);
      ended ??= server.stop("SIGTERM");
    }
    const text = Buffer.concat(parts).toString();
    expect(text).toContain("word-59 ");
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    expect(await ended).toBe(0);
    const store = openSqlite(file);
    const event = (await eventsByCall(store)).get("running");
    expect(event).toMatchObject({ status: 200, promptTokens: 9, completionTokens: 12, errorCode: null });
    await store.close();
  });

  test("a start that cannot succeed says why in one line, without a secret, and ends with 1", async () => {
    const taken = await start({ DB_ADDRESS: `file:${sqliteFile("taken")}` });
    const port = new URL(taken.url).port;
    const secret = "postgresql://anna:hunter2hunter2@127.0.0.1:1/none";
    const noDatabase = join(folder, "text");
    await writeFile(noDatabase, "This is a text, and no database.".repeat(100));
    const cases: [Record<string, string>, RegExp][] = [
      [{ PORT: "http" }, /^PORT /],
      [{ SIGNUP: "sometimes" }, /^SIGNUP /],
      [{ DB_ADDRESS: "mysql://anna:hunter2hunter2@localhost/db" }, /^DB_ADDRESS /],
      [{ DB_ADDRESS: secret }, /^DB_ADDRESS .*ECONNREFUSED/],
      [{ DB_ADDRESS: secret, NEON_ENDPOINT: "http://127.0.0.1:1/sql" }, /^DB_ADDRESS /],
      [{ DB_ADDRESS: `file:${folder}/no/such/folder/proxy.db` }, /^DB_ADDRESS /],
      [{ DB_ADDRESS: `file:${folder}` }, /^DB_ADDRESS /],
      [{ DB_ADDRESS: `file:${noDatabase}` }, /^DB_ADDRESS /],
      [{ DB_ADDRESS: `file:${sqliteFile("other")}`, PORT: port }, /^PORT or ADDRESS .*EADDRINUSE/],
    ];
    const ends = await Promise.all(cases.map(([env]) => command.run(["start"], { env })));
    for (const [i, { code, err, out }] of ends.entries()) {
      expect([code, err.trim().split("\n").length, out]).toEqual([1, 1, ""]);
      expect(err).toMatch(cases[i]?.[1] as RegExp);
      expect(err).not.toContain("hunter2");
    }
  });

  test.skipIf(skippedWithoutPostgres("a taken port on Postgres"))(
    "a taken port ends the start also where a store's connections are open",
    async () => {
      const database = await freshDatabase();
      const env = { DB_ADDRESS: database.url };
      const taken = await start(env);
      const { code, err } = await command.run(["start"], { env: { ...env, PORT: new URL(taken.url).port } });
      expect([code, err.trim().split("\n").length]).toEqual([1, 1]);
      await taken.stop("SIGTERM");
      await database.drop();
    },
  );
});

const withoutLimits = process.platform !== "linux";
if (withoutLimits) process.stderr.write("skipped: a full disk (needs prlimit of Linux)\n");

describe.skipIf(withoutLimits)("a full disk (SQLite; the size that files may have stands for it)", () => {
  const limitFiles = (pid: number, bytes: number | "unlimited") =>
    promisify(execFile)("prlimit", [`--pid=${pid}`, `--fsize=${bytes}:`]);

  test("refuses what it cannot write down, goes on reading, keeps what it acknowledged, and needs no restart", async () => {
    const file = sqliteFile("full");
    const server = await start({ DB_ADDRESS: `file:${file}` });
    const token = await signUp(server, "anna");
    const { size } = await stat(`${file}-wal`);
    await limitFiles(server.pid, size + 400_000);

    const statuses = new Map<string, number>();
    const content = "x".repeat(15_000);
    for (let round = 0; round < 8; round++) {
      const names = Array.from({ length: 8 }, (_, i) => `full-${round}-${i}`);
      const asked = await Promise.all(names.map((name) => ask(server, token, name, { messages: [{ role: "user", content }] })));
      for (const [i, name] of names.entries()) statuses.set(name, asked[i]?.status ?? 0);
      if (asked.some(({ status }) => status !== 200)) break;
    }
    const named = (status: number) => [...statuses].filter(([, it]) => it === status).map(([name]) => name);
    expect(new Set(statuses.values())).toEqual(new Set([200, 503]));
    expect(named(503).filter((name) => seen().includes(name))).toEqual([]);

    // A small write may still fit where a larger one did not.
    const read = () => fetch(`${server.url}/user/read`, { headers: { authorization: `Bearer ${token}` } });
    let refused = await read();
    for (let tries = 0; refused.status === 200 && tries < 200; tries++) refused = await read();
    expect(refused.status).toBe(503);
    expect(refused.headers.get("retry-after")).toBe("2");
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
    const store = openSqlite(file);
    expect([...(await eventsByCall(store)).keys()]).toEqual(expect.arrayContaining(named(200)));

    await limitFiles(server.pid, "unlimited");
    expect((await ask(server, token, "again")).status).toBe(200);
    expect(await server.stop("SIGTERM")).toBe(0);
    const byCall = await eventsByCall(store);
    const kept = [...named(200), "again"].filter((name) => byCall.get(name)?.status === 200);
    expect(kept).toEqual([...named(200), "again"]);
    await store.close();
  });
});
