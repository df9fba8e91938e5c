import { once } from "node:events";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setImmediate as turn } from "node:timers/promises";
import { sql } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { KINDS, newFolder, newPlace, type Place } from "./export-support.ts";
import { fill } from "./store/many.ts";
import { buildCommand, type Command } from "./support/command.ts";
import { skippedWithoutPostgres } from "./support/postgres.ts";

const withoutPostgres = skippedWithoutPostgres("large exports of and imports to Postgres");
const stores = withoutPostgres ? KINDS.slice(0, 1) : KINDS.slice(0, 2);
/** In two chats of half as many messages. */
const MESSAGES = 100_000;
const { folder, remove } = newFolder();
let command: Command;
let source: Place;
let first: string;

beforeAll(async () => {
  command = await buildCommand({});
  source = await newPlace("SQLite");
  await source.store.migrate();
  await fill(source.store, "sqlite", { messages: MESSAGES / 2, others: 1_000 });
  first = await exported(source);
});
afterAll(async () => {
  await source.close();
  command.remove();
  remove();
});

let files = 0;
const newFile = () => join(folder, `${++files}.jsonl`);
async function exported({ env }: Place): Promise<string> {
  const file = newFile();
  const { code, err, json } = await command.run(["export", file], { env });
  if (code !== 0) throw new Error(err);
  expect(json.find(({ table }) => table === "messages").rows).toBeGreaterThan(MESSAGES);
  return file;
}
const same = (one: string, other: string) => readFileSync(one).equals(readFileSync(other));
const countOf = async ({ store }: Place, table: string) =>
  Number((await store.run([{ sql: `select count(*) from ${table}`, params: [] }]))[0]?.[0]?.[0]);

describe("100,000 messages", { timeout: 300_000 }, () => {
  test.each(stores)("go to %s and back, and how far they are is told", async (kind) => {
    const target = await newPlace(kind);
    const { code, err, json } = await command.run(["import", first], { env: target.env });
    expect(code, err).toBe(0);
    expect(err).toMatch(/^[a-z_]+: [\d,]+ of [\d,]+ rows, \d+%, [\d,]+ rows\/s$/m);
    expect(json.find(({ table }) => table === "messages").added).toBe(await countOf(source, "messages"));
    expect(same(await exported(target), first)).toBe(true);
    await target.close();
  });

  test("an export that is interrupted leaves a file that import refuses", async () => {
    const file = newFile();
    const child = command.start(["export", file], { env: source.env });
    await vi.waitFor(() => expect(statSync(file).size).toBeGreaterThan(2 ** 20), { timeout: 60_000, interval: 10 });
    child.kill("SIGINT");
    const [[code], err] = await Promise.all([once(child, "close"), text(child.stderr)]);
    expect([code, err.split("\n").at(-2)]).toEqual([130, `Interrupted: ${file} is cut short, and import refuses it.`]);
    const target = await newPlace("SQLite");
    const refused = await command.run(["import", file], { env: target.env });
    expect(refused).toMatchObject({ code: 1, out: "", err: expect.stringMatching(/cut short\.\n$/) });
    await target.close();
  });

  test.each(stores)("an import to %s that is interrupted goes on with --merge", async (kind) => {
    const target = await newPlace(kind);
    await target.store.migrate();
    const child = command.start(["import", first], { env: target.env });
    await vi.waitFor(async () => expect(await countOf(target, "messages")).toBeGreaterThan(0), { timeout: 60_000 });
    child.kill("SIGINT");
    const [[code], err] = await Promise.all([once(child, "close"), text(child.stderr)]);
    expect([code, err.split("\n").at(-2)]).toEqual([
      130,
      expect.stringMatching(/^Interrupted: \d+ rows were added before, and stay; --merge/),
    ]);
    const { json } = await command.run(["import", first, "--merge"], { env: target.env });
    expect(json.find(({ table }) => table === "users")).toMatchObject({ rows: 10_000, added: 0 });
    expect(same(await exported(target), first)).toBe(true);
    await target.close();
  });

  test.each(stores)("an export of %s beside somebody who writes is one state of it", async (kind) => {
    const busy = await newPlace(kind);
    await busy.store.migrate();
    await fill(busy.store, kind === "SQLite" ? "sqlite" : "postgres", { messages: MESSAGES / 2, others: 1_000 });
    const ended = new AbortController();
    const writing = write(busy, ended.signal);
    const file = await exported(busy).finally(() => ended.abort());
    const { made, gone } = await writing;
    expect(Math.min(made, gone)).toBeGreaterThan(100);
    const rows = readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => line.includes('"pair-'));
    const of = (table: string) => rows.filter((line) => line.startsWith(`{"table":"${table}"`)).length;
    expect(of("users")).toBeLessThan(made);
    expect([of("chats"), of("messages"), of("images")]).toEqual([10, 10, 10]);

    const target = await newPlace("SQLite");
    expect(await command.run(["import", file], { env: target.env })).toMatchObject({ code: 0 });
    await Promise.all([busy.close(), target.close()]);
  });
});

/** Makes a user with a chat, a message and an image in one write, and deletes the chat of the tenth before, until the end. */
async function write({ store }: Place, ended: AbortSignal) {
  const at = new Date(0);
  const dates = { createdAt: at, updatedAt: at };
  const make = (id: string, old: string) =>
    store.atomic((q) => [
      q.insert(store.users).values({ id, username: id, passwordHash: "", admin: false, ...dates }),
      q.insert(store.chats).values({ id, ownerId: id, name: "", model: "m", lastSeq: 1, ...dates }),
      q.insert(store.messages).values({
        ...{ id, chatId: id, seq: 1, userId: id, state: "done", model: "m", requestId: "r", fingerprint: "f" },
        ...{ prompt: "", reply: "", ...dates },
      }),
      q.insert(store.images).values({ messageId: id, url: "data:" }),
      q.delete(store.chats).where(sql`id = ${old}`),
    ]);
  let made = 0;
  for (; !ended.aborted || made < 200; made++) {
    await make(`pair-${made}`, `pair-${made - 10}`);
    await turn();
  }
  return { made, gone: made - 10 };
}
