import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { insertOdd, KINDS, newFolder, newPlace, type Place, resealed, rowCount, type Sealed } from "./export-support.ts";
import { buildCommand, type Command } from "./support/command.ts";
import { skippedWithoutPostgres } from "./support/postgres.ts";

const kinds = skippedWithoutPostgres("refused imports to Postgres and Neon") ? KINDS.slice(0, 1) : KINDS;
const PEOPLE = 1_200;
const { folder, remove } = newFolder();
let command: Command;
/** An export of `PEOPLE` users, each with a session: its lines are the header, the users, the sessions and the counts. */
let text: string;
/** One of every table. */
let odd: string;
const places: Place[] = [];

beforeAll(async () => {
  command = await buildCommand({});
  const at = new Date(0);
  const [many, few] = await Promise.all([place("SQLite"), place("SQLite")]);
  await Promise.all([many.store.migrate(), few.store.migrate()]);
  await insertOdd(few.store);
  const { db, users, sessions } = many.store;
  const ids = Array.from({ length: PEOPLE }, (_, i) => `user-${String(i).padStart(4, "0")}`);
  const user = { passwordHash: "", admin: false, createdAt: at, updatedAt: at };
  await db.insert(users).values(ids.map((id) => ({ id, username: `name of ${id}`, ...user })));
  const session = { kind: "key" as const, hint: "", createdAt: at, lastUsedAt: at, expiresAt: at, endsAt: at };
  await db.insert(sessions).values(ids.map((id) => ({ id, hash: id, userId: id, ...session })));
  [text, odd] = (await Promise.all([many, few].map(async ({ env }) => (await command.run(["export"], { env })).out))) as [
    string,
    string,
  ];
});
afterAll(async () => {
  command.remove();
  await Promise.all(places.map((it) => it.close()));
  remove();
});

async function place(kind: (typeof KINDS)[number]): Promise<Place> {
  const made = await newPlace(kind);
  places.push(made);
  return made;
}

let files = 0;
/** What becomes of an import of this text, as a file and on standard input: one line each, and how many rows there are then. */
async function refused(input: string, kind: (typeof KINDS)[number] = "SQLite") {
  const file = join(folder, `${++files}.jsonl`);
  writeFileSync(file, input);
  const tell = async (words: string[], options: { input?: string }) => {
    const { env, store } = await place(kind);
    const { code, out, err } = await command.run(["import", ...words], { env, ...options });
    const told = err.split("\n").filter((line) => !line.includes("rows/s"));
    expect([code, out, told.length]).toEqual([1, "", 2]);
    await store.migrate();
    return { line: told[0], rows: await rowCount(store) };
  };
  return { file: await tell([file], {}), piped: await tell([], { input }) };
}

const replaced = (line: number, change: (record: Sealed) => object) =>
  resealed(text, (records) => records.map((record, i) => (i === line - 1 ? change(record) : record)));

describe.concurrent("an import is refused in one line", { timeout: 120_000 }, () => {
  test("where it was cut, whether between lines or in one", async () => {
    const lines = text.split("\n");
    const between = await refused(`${lines.slice(0, 901).join("\n")}\n`);
    expect(between.file).toEqual({ line: "The input ends after line 901, without its counts: it was cut short.", rows: 0 });
    expect(between.piped).toEqual({
      line: "The input ends after line 901, without its counts: it was cut short. In this run 500 rows were added before, and stay; --merge goes on from there.",
      rows: 500,
    });
    const within = await refused(text.slice(0, lines.slice(0, 901).join("\n").length + 30));
    expect(within.file).toEqual({ line: "The input ends in line 902: it was cut short.", rows: 0 });
    const noEnd = await refused(text.slice(0, -1));
    expect(noEnd.file.line).toMatch(/cut short/);
  });

  test("where a line was changed, lost, doubled or moved", async () => {
    const lines = text.split("\n");
    const without = lines.toSpliced(700, 1);
    const changed = [
      text.replace("name of user-0699", "name of user-9999"),
      without.join("\n"),
      lines.toSpliced(700, 0, lines[699] as string).join("\n"),
      lines.toSpliced(700, 2, lines[701] as string, lines[700] as string).join("\n"),
    ];
    for (const input of changed) {
      const { file, piped } = await refused(input);
      expect(file).toEqual({ line: "Line 701 was changed after it was written, or lines before it are missing.", rows: 0 });
      expect(piped).toMatchObject({ line: expect.stringMatching(/^Line 701 was changed.* 500 rows were added/), rows: 500 });
    }
    expect((await refused(`${text}{}\n`)).file).toMatchObject({ line: expect.stringContaining("Line 2403"), rows: 0 });
  });

  test("where it is of a newer format or version, or of tables and columns that are not there", async () => {
    const cases: [string, RegExp][] = [
      [replaced(1, (header) => ({ ...header, version: 2 })), /format is 2, and this version reads 1/],
      [
        replaced(1, ({ migrations, ...header }) => ({ ...header, migrations: [...migrations, "9999_later"] })),
        /newer version \(9999_later\)/,
      ],
      [replaced(9, ({ row }) => ({ table: "\u001b[31mpeople", row })), /^Line 9: there is no table "\\u001b\[31mpeople"\.$/],
      [
        replaced(9, ({ table, row }) => ({ table, row: { ...row, shoe_size: 44 } })),
        /^Line 9: the table users has no column "shoe_size"\.$/,
      ],
    ];
    for (const [input, told] of cases) {
      const { file, piped } = await refused(input);
      expect(file).toEqual({ line: expect.stringMatching(told), rows: 0 });
      expect(piped.rows).toBe(0);
    }
  });

  test("where a value is not of its column's kind, which is named without the value", async () => {
    const values: [string, unknown, string][] = [
      ["username", 5, "users.username is not a text"],
      ["admin", "planted", "users.admin is not true or false"],
      ["created_at", "planted", "users.created_at is not a time such as 2026-01-01T00:00:00.000Z"],
      ["created_at", "2026-02-30T00:00:00.000Z", "users.created_at is not a time such as 2026-01-01T00:00:00.000Z"],
      ["updated_at", null, "users.updated_at is not a time such as 2026-01-01T00:00:00.000Z"],
    ];
    for (const [column, value, told] of values) {
      const { file } = await refused(replaced(77, ({ table, row }) => ({ table, row: { ...row, [column]: value } })));
      expect(file).toEqual({ line: `Line 77: ${told}.`, rows: 0 });
    }
    const { file } = await refused(
      resealed(odd, (all) =>
        all.map(({ table, row, ...rest }) =>
          table === "usage" ? { table, row: { ...row, requests: 2 ** 53 } } : { ...(table && { table, row }), ...rest },
        ),
      ),
    );
    expect(file.line).toContain("usage.requests is not a whole number up to 2^53");
  });

  test("where its counts are not those of its rows", async () => {
    const { file } = await refused(resealed(text, (records) => records.toSpliced(5, 1)));
    expect(file).toEqual({ line: `Line 2401 counts ${PEOPLE} rows of users, and there are ${PEOPLE - 1}.`, rows: 0 });
  });

  test.each(kinds)("where a row is not taken by the store: %s keeps none of its batch", async (kind) => {
    // Whose name is another's, in the second batch; whose user is not there, in the first batch of the sessions.
    const twice = replaced(701, ({ table, row }) => ({ table, row: { ...row, username: "name of user-0001" } }));
    const { file, piped } = await refused(twice, kind);
    const [line, rows] = [
      expect.stringMatching(/^Line 701: .*users: what is unique in it belongs to another row \([A-Z0-9_]+\)\. In this run 500/),
      500,
    ];
    expect([file, piped]).toEqual([
      { line, rows },
      { line, rows },
    ]);
    const orphan = replaced(PEOPLE + 301, ({ table, row }) => ({ table, row: { ...row, user_id: "planted" } }));
    expect((await refused(orphan, kind)).piped).toEqual({
      line: expect.stringMatching(/^Line 1501: .*sessions: it refers to a row that is not there/),
      rows: PEOPLE,
    });
  });

  test("where the target has rows, unless it is to be merged", async () => {
    const target = await place("SQLite");
    const run = (...words: string[]) => command.run(["import", ...words], { env: target.env, input: odd });
    expect((await run()).code).toBe(0);
    const rows = await rowCount(target.store);
    expect(await run()).toMatchObject({
      code: 1,
      out: "",
      err: "The store is not empty: there are rows in users. Import into a new one, or give --merge.\n",
    });
    expect((await run("--merge")).code).toBe(0);
    expect(await rowCount(target.store)).toBe(rows);
  });

  test("what an older version wrote is taken, without the columns that came later", async () => {
    const older = resealed(odd, (records) =>
      records.map((record) => {
        if (record.format) return { ...record, migrations: record.migrations.slice(0, 1) };
        const { key: _, cleared_seq: __, ...row } = record.row ?? {};
        return record.table === "chats" ? { table: "chats", row } : record;
      }),
    );
    const target = await place("SQLite");
    expect((await command.run(["import"], { env: target.env, input: older })).code).toBe(0);
    expect(await target.store.db.select().from(target.store.chats)).toMatchObject([
      { key: null, clearedSeq: null },
      { key: null },
    ]);
  });
});
