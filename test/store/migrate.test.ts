import { execFile } from "node:child_process";
import { once } from "node:events";
import { cp, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openNeon } from "../../lib/store/neon.ts";
import { openPostgres } from "../../lib/store/postgres.ts";
import { openSqlite } from "../../lib/store/sqlite.ts";
import type { Store } from "../../lib/store/store.ts";
import { type NeonBridge, startNeonBridge } from "../bridge/neon.ts";
import { buildCommand, type Command } from "../support/command.ts";
import { freshDatabase, postgresUrl, skippedWithoutPostgres } from "../support/postgres.ts";

const withoutPostgres = skippedWithoutPostgres("migrations on Postgres and Neon");

const scratch: string[] = [];
async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "proxy-gpt-migrate-"));
  scratch.push(folder);
  return folder;
}
afterAll(() => Promise.all(scratch.map((folder) => rm(folder, { recursive: true }))));

const all = async (dialect: string) =>
  (await readdir(`schema/migrations/${dialect}`)).filter((name) => name.endsWith(".sql")).map((name) => name.slice(0, -4));

describe("several starts on an empty store at once", () => {
  let command: Command;
  let bridge: NeonBridge;
  beforeAll(async () => {
    command = await buildCommand({});
    if (postgresUrl) bridge = await startNeonBridge(postgresUrl);
  });
  afterAll(async () => {
    command?.remove();
    await bridge?.close();
  });

  /** Each store migrates, all at the same time; one of them did it, and after that there is nothing to do. */
  const migrateTogether = async (stores: Store[], dialect: string) => {
    const added = await Promise.all(stores.map((store) => store.migrate()));
    expect(added.flat().toSorted()).toEqual(await all(dialect));
    for (const store of stores) expect(await store.migrate()).toEqual([]);
    const rows = await (stores[0] as Store).run([{ sql: "select name from migrations order by name", params: [] }]);
    expect(rows[0]).toEqual((await all(dialect)).map((name) => [name]));
    await Promise.all(stores.map((store) => store.close()));
  };

  test("SQLite, as stores of one process", async () => {
    const file = join(await newFolder(), "proxy.db");
    await migrateTogether([openSqlite(file), openSqlite(file), openSqlite(file)], "sqlite");
  });

  test("SQLite, where another process is just writing to the file that it made", async () => {
    const file = join(await newFolder(), "proxy.db");
    const other = new Worker(
      `const { parentPort, workerData } = require("node:worker_threads");
      const database = new (require("libsql"))(workerData);
      database.exec("create table other (name text); begin immediate");
      parentPort.postMessage("begun");
      setTimeout(() => {
        database.exec("commit");
        database.close();
      }, 300);`,
      { eval: true, workerData: file },
    );
    const [[begun], ended] = [await once(other, "message"), once(other, "exit")];
    expect(begun).toBe("begun");
    const store = openSqlite(file);
    expect(await store.migrate()).toEqual(await all("sqlite"));
    expect(await store.run([{ sql: "pragma journal_mode", params: [] }])).toEqual([[["wal"]]]);
    await store.close();
    expect(await ended).toEqual([0]);
  });

  test("SQLite, as processes", async () => {
    const file = join(await newFolder(), "proxy.db");
    const ends = await Promise.all([1, 2, 3].map(() => command.run(["migrate"], { env: { DB_ADDRESS: `file:${file}` } })));
    expect(ends.map(({ code, err }) => [code, err])).toEqual(ends.map(() => [0, ""]));
    const names = (await all("sqlite")).join(", ");
    expect(ends.map(({ out }) => out.trim()).toSorted()).toEqual([
      `Applied ${names}.`,
      "The store is up to date.",
      "The store is up to date.",
    ]);
    const store = openSqlite(file);
    expect(await store.migrate()).toEqual([]);
    await store.close();
  });

  test.skipIf(withoutPostgres)("Postgres", async () => {
    for (let trial = 0; trial < 2; trial++) {
      const database = await freshDatabase();
      await migrateTogether(
        Array.from({ length: 4 }, () => openPostgres(database.url)),
        "postgres",
      );
      await database.drop();
    }
  });

  test.skipIf(withoutPostgres)("Neon", async () => {
    for (let trial = 0; trial < 2; trial++) {
      const database = await freshDatabase();
      await migrateTogether(
        Array.from({ length: 4 }, () => openNeon(database.url, bridge.endpoint)),
        "postgres",
      );
      await database.drop();
    }
  });
});

describe("the migrations are those of schema/tables.ts", () => {
  test.each([
    ["postgres", "postgresql"],
    ["sqlite", "sqlite"],
  ])("%s", async (dialect, name) => {
    const folder = join(await newFolder(), dialect);
    await cp(`schema/migrations/${dialect}`, folder, { recursive: true });
    const generate = ["drizzle-kit", "generate", `--dialect=${name}`, `--schema=schema/${dialect}.ts`, `--out=${folder}`];
    await promisify(execFile)("npx", generate);
    expect(await contents(folder)).toEqual(await contents(`schema/migrations/${dialect}`));
  });
});

async function contents(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  const files = names.map(async ({ parentPath, name }) => [name, await readFile(join(parentPath, name), "utf8")] as const);
  return Object.fromEntries(await Promise.all(files));
}
