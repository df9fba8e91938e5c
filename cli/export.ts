import { createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { count, readerOf } from "../lib/repo/rows.ts";
import { layouts } from "../lib/store/layout.ts";
import { Failure } from "./failure.ts";
import { outputFailed } from "./print/output-failed.ts";
import { type Format, type Listing, printer } from "./print/printer.ts";
import { progress } from "./print/progress.ts";
import { told } from "./told.ts";
import { interruption } from "./transfer/interruption.ts";
import { requireFile, requireMigrations, withStore } from "./transfer/with-store.ts";
import { type Source, writing } from "./transfer/writing.ts";

type Exported = { table: string; rows: number };
const listing: Listing<Exported> = {
  fields: ["table", "rows"],
  columns: [
    { title: "TABLE", text: ({ table }) => table },
    { title: "ROWS", text: ({ rows }) => rows, right: true },
  ],
};

/** Writes every row of the store to a new file, or to standard output, and prints how many of each table. */
export async function exportStore(file = "-", { format }: { format: Format }): Promise<void> {
  requireFile();
  const out = file === "-" ? process.stderr : process.stdout;
  process.stdout.on("error", file === "-" ? () => {} : outputFailed);
  await withStore(async (store) => {
    const snapshot = await store.snapshot();
    try {
      const migrations = await requireMigrations(snapshot.db);
      const reader = await readerOf(store, snapshot.db);
      const tables = await layouts();
      printer(format, listing, out)(await written({ reader, tables, migrations }, file));
    } finally {
      await snapshot.end();
    }
  });
}

async function written(source: Omit<Source, "onRows">, file: string): Promise<Exported[]> {
  const stopped = interruption();
  const counts = new Map(source.tables.map(({ name }) => [name, 0]));
  let total = 0;
  for (const table of source.tables) total += await count(source.reader, table);
  const shown = progress(process.stderr, total);
  const onRows = (table: string, rows: number) => {
    counts.set(table, (counts.get(table) ?? 0) + rows);
    shown.add(table, rows);
  };
  const text = writing({ ...source, onRows });
  try {
    if (file === "-") await pipeline(text, process.stdout, { signal: stopped, end: false });
    else await pipeline(text, createWriteStream(file, { flags: "wx", mode: 0o600, flush: true }), { signal: stopped });
  } catch (error) {
    shown.end();
    throw unfinished(error, file);
  }
  shown.end();
  return [...counts].map(([table, rows]) => ({ table, rows }));
}

function unfinished(error: unknown, file: string): unknown {
  const cut = `${file === "-" ? "What was written" : file} is cut short, and import refuses it.`;
  const { name, code, syscall } = error as NodeJS.ErrnoException;
  if (name === "AbortError") return new Failure(`Interrupted: ${cut}`, 130);
  if (code === "EEXIST") return new Failure(`${file} is there already, and is not written over.`);
  if (syscall === "open") return new Failure(`${file} cannot be written (${code}).`);
  if (syscall !== undefined) return new Failure(`The export cannot be written on (${code}): ${cut}`);
  const failure = told(error);
  return failure instanceof Failure ? new Failure(`${failure.message} ${cut}`) : failure;
}
