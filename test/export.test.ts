import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { everyRow, insertOdd, type Kind, newFolder, newPlace, type Place, rowCount } from "./export-support.ts";
import { PASSWORD, startApp } from "./support/app.ts";
import { buildCommand, type Command } from "./support/command.ts";
import { freshDatabase, postgresUrl, skippedWithoutPostgres } from "./support/postgres.ts";

const withoutPostgres = skippedWithoutPostgres("exports of and imports to Postgres and Neon");
const { folder, remove } = newFolder();
const places: Place[] = [];
let command: Command;

beforeAll(async () => {
  command = await buildCommand({});
});
afterAll(async () => {
  command.remove();
  await Promise.all(places.map((place) => place.close()));
  remove();
});

async function place(kind: Kind): Promise<Place> {
  const made = await newPlace(kind);
  places.push(made);
  return made;
}
let files = 0;
const newFile = () => join(folder, `${++files}.jsonl`);

async function exported({ env }: Pick<Place, "env">): Promise<string> {
  const file = newFile();
  const { code, err } = await command.run(["export", file], { env });
  if (code !== 0) throw new Error(err);
  return file;
}
const imported = (file: string, { env }: Pick<Place, "env">, ...words: string[]) =>
  command.run(["import", file, ...words], { env });
const same = (one: string, other: string) => readFileSync(one).equals(readFileSync(other));

describe.concurrent("export and import", { timeout: 120_000 }, () => {
  const ROUTES: Kind[][] = [
    ["SQLite", "SQLite"],
    ...(withoutPostgres ? [] : [["SQLite", "Postgres", "SQLite"] as Kind[], ["SQLite", "Neon", "Postgres"] as Kind[]]),
  ];
  test.each(ROUTES.map((route) => [route.join(" → "), route] as const))(
    "%s: every row is the same, and every file",
    async (_, route) => {
      const [first, ...others] = await Promise.all(route.map(place));
      if (!first) throw new Error("there is no store");
      await first.store.migrate();
      await insertOdd(first.store);
      const rows = await everyRow(first.store);
      for (const [table, { length }] of rows) expect([table, length > 0]).toEqual([table, true]);
      const file = await exported(first);
      for (const other of others) {
        const ran = await imported(file, other);
        expect(ran.code, ran.err).toBe(0);
        expect(new Map(ran.json.map(({ table, added }) => [table, added]))).toEqual(
          new Map([...rows].map(([table, { length }]) => [table, length])),
        );
        // Compared so, because a difference of megabytes is not worth showing.
        expect(JSON.stringify([...(await everyRow(other.store))]) === JSON.stringify([...rows])).toBe(true);
        expect(same(await exported(other), file)).toBe(true);
      }
    },
  );

  test("a merge of the same file changes nothing, and one of another adds what is not there", async () => {
    const [source, target] = await Promise.all([place("SQLite"), place("SQLite")]);
    await source.store.migrate();
    await insertOdd(source.store);
    const file = await exported(source);
    await imported(file, target);
    const { settings, throttles } = target.store;
    await target.store.db.update(settings).set({ value: "mine" });
    await target.store.db.delete(throttles);
    const again = await imported(file, target, "--merge");
    expect(again.code).toBe(0);
    expect(again.json.filter(({ added }) => added > 0)).toEqual([{ table: "throttles", rows: 7, added: 7 }]);
    expect(await target.store.db.select().from(settings)).toMatchObject([{ value: "mine" }]);
    const third = await imported(file, target, "--merge", "--format", "table");
    expect(third.out).toMatch(/^TABLE +ROWS +ADDED\nusers +2 +0\n/);
  });

  test("whoever had a password, a session or an API key still has it", async () => {
    const before = await startApp();
    const person = await before.person();
    const { json: key } = await before.call("/user/key/create", { token: person.token, body: { label: "laptop" } });
    const { json: chat } = await before.call("/chat/create", { token: person.token, body: { name: "spain" } });
    const file = await exported({ env: { DB_ADDRESS: `file:${before.file}` } });
    const targets = await Promise.all(
      (withoutPostgres ? ["SQLite" as const] : ["SQLite" as const, "Postgres" as const]).map(place),
    );
    for (const target of targets) {
      expect((await imported(file, target)).code).toBe(0);
      const after = await startApp(target.env);
      const login = await after.call("/user/login", { body: { username: person.username, password: PASSWORD } });
      expect(login.status).toBe(200);
      for (const token of [person.token, key.token, login.json.token]) {
        expect((await after.call("/user/session", { token })).status).toBe(200);
        expect((await after.call(`/chat/read?id=${chat.chat?.id ?? chat.id}`, { token })).text).toContain("spain");
      }
      expect((await after.call("/user/login", { body: { username: person.username, password: "another one" } })).status).toBe(
        401,
      );
      await after.close();
    }
    await before.close();
  });

  const PIPES: [Kind, Kind][] = withoutPostgres
    ? [["SQLite", "SQLite"]]
    : [
        ["SQLite", "Postgres"],
        ["Postgres", "Neon"],
        ["Neon", "SQLite"],
      ];
  test.each(PIPES)("through a pipe, %s to %s", async (from, to) => {
    const [source, target] = await Promise.all([place(from), place(to)]);
    await source.store.migrate();
    await insertOdd(source.store);
    const settings = ({ env }: Place) =>
      Object.entries(env)
        .map(([name, value]) => `${name}='${value}'`)
        .join(" ");
    const ran = await command.shell(`${settings(source)} "$@" export | ${settings(target)} "$@" import -`, []);
    expect(ran).toMatchObject({ code: 0 });
    // The counts of the export, which went to standard error.
    expect(ran.err).toContain('{"table":"users","rows":2}\n');
    expect(ran.json).toContainEqual({ table: "messages", rows: 7, added: 7 });
    expect(same(await exported(source), await exported(target))).toBe(true);
  });

  test("the file is its owner's alone, is never written over, and holds no setting", async () => {
    const source = await place("SQLite");
    await source.store.migrate();
    const file = newFile();
    const env = { ...source.env, API_KEY: "sk-planted-key", REDIS_ADDRESS: "redis://:planted-word@127.0.0.1:1" };
    const ran = await command.run(["export", file], { env });
    expect([ran.code, (statSync(file).mode & 0o777).toString(8)]).toEqual([0, "600"]);
    expect(readFileSync(file, "utf8") + ran.out + ran.err).not.toContain("planted");
    expect(await command.run(["export", file], { env })).toMatchObject({
      code: 1,
      out: "",
      err: `${file} is there already, and is not written over.\n`,
    });
    const nowhere = join(folder, "no/such/folder.jsonl");
    expect(await command.run(["export", nowhere], { env })).toMatchObject({
      code: 1,
      err: `${nowhere} cannot be written (ENOENT).\n`,
    });
    const help = await command.run(["export", "--help"]);
    expect(help.out).toMatch(/hashes of passwords[\s\S]*0600[\s\S]*Neon/);
  });

  test("a store that is not there, not migrated or of a newer version is not exported", async () => {
    const source = await place("SQLite");
    expect(await command.run(["export"], { env: source.env })).toMatchObject({
      code: 1,
      out: "",
      err: expect.stringMatching(/^.*npm run migrate\n$/),
    });
    await source.store.migrate();
    await source.store.run([{ sql: "insert into migrations (name) values ('9999_later')", params: [] }]);
    expect(await command.run(["export"], { env: source.env })).toMatchObject({
      code: 1,
      out: "",
      err: expect.stringMatching(/^.*9999_later.*\n$/),
    });
    const missing = join(folder, "missing.db");
    expect(await command.run(["export"], { env: { DB_ADDRESS: `file:${missing}` } })).toMatchObject({
      code: 1,
      out: "",
      err: "DB_ADDRESS names a file that is not there.\n",
    });
    expect(existsSync(missing)).toBe(false);
  });

  test("an output that is closed before the end is told of", async () => {
    const source = await place("SQLite");
    await source.store.migrate();
    await insertOdd(source.store);
    const ran = await command.shell(
      `export DB_ADDRESS='${source.env.DB_ADDRESS}'; { "$@" export; echo "code $?" >&2; } | head -c 100 > /dev/null`,
      [],
    );
    expect(ran.err).toMatch(/^The export cannot be written on \(EPIPE\): .* cut short.*\ncode 1\n$/);
  });

  test.skipIf(withoutPostgres)("a database that orders texts as people do makes the same file", async () => {
    const source = await place("SQLite");
    await source.store.migrate();
    await insertOdd(source.store);
    const file = await exported(source);
    const { url, drop } = await freshDatabase();
    const name = new URL(url).pathname.slice(1);
    const client = new pg.Client({ connectionString: postgresUrl });
    await client.connect();
    await client.query(`drop database ${name}`);
    await client.query(`create database ${name} template template0 encoding 'UTF8' locale_provider icu icu_locale 'en-US'`);
    await client.end();
    const target = { env: { DB_ADDRESS: url } };
    expect(await imported(file, target)).toMatchObject({ code: 0 });
    expect(same(await exported(target), file)).toBe(true);
    await drop();
  });

  test("what is empty stays empty, and what is not an export is refused", async () => {
    const [source, target] = await Promise.all([place("SQLite"), place("SQLite")]);
    await source.store.migrate();
    expect((await imported(await exported(source), target)).code).toBe(0);
    expect(await rowCount(target.store)).toBe(0);
    const file = newFile();
    for (const text of ["", "{}\n", "not JSON", '{"format":"other"}\n{}\n']) {
      writeFileSync(file, text);
      expect(await imported(file, target)).toMatchObject({ code: 1, out: "", err: expect.stringMatching(/^The input .*\n$/) });
    }
    expect(await imported(join(folder, "missing"), target)).toMatchObject({
      code: 1,
      err: "The input cannot be read (ENOENT).\n",
    });
  });
});
