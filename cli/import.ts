import { createReadStream } from "node:fs";
import { addAbortSignal, type Readable } from "node:stream";
import { isEmpty } from "../lib/repo/rows.ts";
import { layouts, type TableLayout } from "../lib/store/layout.ts";
import { migrationNames } from "../lib/store/migrate.ts";
import type { Store } from "../lib/store/store.ts";
import { explained } from "./explain.ts";
import { Failure } from "./failure.ts";
import { outputFailed } from "./print/output-failed.ts";
import { type Format, type Listing, printer } from "./print/printer.ts";
import { progress } from "./print/progress.ts";
import { add } from "./transfer/add.ts";
import { interruption } from "./transfer/interruption.ts";
import { type Batch, openExport } from "./transfer/reading.ts";
import { requireMigrations, withStore } from "./transfer/with-store.ts";

type Imported = { table: string; rows: number; added: number };
const listing: Listing<Imported> = {
  fields: ["table", "rows", "added"],
  columns: [
    { title: "TABLE", text: ({ table }) => table },
    { title: "ROWS", text: ({ rows }) => rows, right: true },
    { title: "ADDED", text: ({ added }) => added, right: true },
  ],
};

type Options = { format: Format; merge?: boolean };
type Work = { tables: readonly TableLayout[]; stopped: AbortSignal };

/** Adds the rows of an export to the store, and prints how many of each table there were, and how many were not there before. */
export async function importStore(file = "-", { format, merge = false }: Options): Promise<void> {
  process.stdout.on("error", outputFailed);
  if (file === "-" && process.stdin.isTTY) throw new Failure("Give a file, or send an export to standard input.", 2);
  const work = { tables: await layouts(), stopped: interruption() };
  const total = file === "-" ? undefined : await checked(file, work);
  const source = sourceOf(file);
  try {
    const batches = await opened(source, work);
    await withStore(async (store) => {
      await explained(store.migrate());
      await requireMigrations(store.db);
      if (!merge) await requireEmpty(store, work.tables);
      printer(format, listing)(await added(store, batches, work, total));
    });
  } finally {
    // Else this process would wait for what is still to come.
    source.destroy();
  }
}

/** How many rows a file has, once all of it was read and found to be whole. */
async function checked(file: string, work: Work): Promise<number> {
  const shown = progress(process.stderr);
  let rows = 0;
  try {
    for await (const batch of await opened(sourceOf(file), work)) {
      rows += batch.rows.length;
      shown.add("checking", batch.rows.length);
    }
  } finally {
    shown.end();
  }
  return rows;
}

async function added(store: Store, batches: AsyncIterable<Batch>, { tables, stopped }: Work, total: number | undefined) {
  const counts = new Map(tables.map(({ name: table }) => [table, { table, rows: 0, added: 0 }]));
  const shown = progress(process.stderr, total);
  let all = 0;
  try {
    for await (const batch of batches) {
      stopped.throwIfAborted();
      const count = counts.get(batch.table.name) as Imported;
      const found = await add(store, batch);
      count.rows += batch.rows.length;
      count.added += found;
      all += found;
      shown.add(count.table, batch.rows.length);
    }
  } catch (error) {
    const so = all === 0 ? "nothing was added." : `${all} rows were added before, and stay; --merge goes on from there.`;
    if (stopped.aborted) throw new Failure(`Interrupted: ${so}`, 130);
    throw error instanceof Failure ? new Failure(`${error.message} In this run ${so}`) : error;
  } finally {
    shown.end();
  }
  return [...counts.values()];
}

async function requireEmpty(store: Store, tables: readonly TableLayout[]): Promise<void> {
  for (const table of tables) {
    if (await isEmpty(store, table)) continue;
    throw new Failure(`The store is not empty: there are rows in ${table.name}. Import into a new one, or give --merge.`);
  }
}

const sourceOf = (file: string): Readable => (file === "-" ? process.stdin : createReadStream(file));

async function opened(source: Readable, { tables, stopped }: Work): Promise<AsyncIterable<Batch>> {
  return openExport(readable(addAbortSignal(stopped, source), stopped), tables, await migrationNames());
}

async function* readable(source: Readable, stopped: AbortSignal): AsyncGenerator<Buffer> {
  try {
    yield* source;
  } catch (error) {
    if (stopped.aborted) throw new Failure("Interrupted: nothing was added.", 130);
    const { code, syscall } = error as NodeJS.ErrnoException;
    throw syscall === undefined ? error : new Failure(`The input cannot be read (${code}).`);
  }
}
