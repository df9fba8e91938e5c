import type { TableLayout } from "../../lib/store/layout.ts";
import { Failure } from "../failure.ts";
import { FORMAT, VERSION } from "./format.ts";
import { linesOf } from "./lines.ts";
import { unsealer } from "./seal.ts";
import { parseRow } from "./value.ts";

/** Rows that are added together, of lines that follow each other. `first`: the number of the first line. */
export type Batch = { table: TableLayout; first: number; rows: Record<string, unknown>[] };

const ROWS_AT_ONCE = 500;
const BYTES_AT_ONCE = 512 * 1024;
const CUT = "it was cut short";

type Numbered = { number: number; bytes: number; record: Record<string, unknown> };
type Records = AsyncGenerator<Numbered, void>;

/**
 * Reads an export: its first line at once, the rest a batch at a time. Throws a `Failure` that names the line, before the
 * batch that the line is in, where it is not as it was written or not of these tables; and at the end, where that is missing.
 */
export async function openExport(
  source: AsyncIterable<Buffer>,
  tables: readonly TableLayout[],
  known: readonly string[],
): Promise<AsyncGenerator<Batch, void>> {
  const records = recordsOf(source);
  const { value: header } = await records.next();
  checkHeader(header?.record, known);
  return batchesOf(records, new Map(tables.map((table) => [table.name, table])));
}

async function* recordsOf(source: AsyncIterable<Buffer>): Records {
  const unseal = unsealer();
  let number = 0;
  for await (const { bytes, whole } of linesOf(source)) {
    number++;
    const record = unseal(bytes);
    if (record && whole) yield { number, bytes: bytes.length, record };
    else if (number === 1) throw new Failure("The input is not an export of proxy-gpt, or its first line was changed.");
    else if (!whole) throw new Failure(`The input ends in line ${number}: ${CUT}.`);
    else throw new Failure(`Line ${number} was changed after it was written, or lines before it are missing.`);
  }
  if (number === 0) throw new Failure("The input is empty.");
}

function checkHeader(header: Record<string, unknown> | undefined, known: readonly string[]): void {
  if (header?.format !== FORMAT || !Array.isArray(header.migrations))
    throw new Failure("The input is not an export of proxy-gpt.");
  if (header.version !== VERSION)
    throw new Failure(
      `The export's format is ${header.version}, and this version reads ${VERSION}: use the version that wrote it.`,
    );
  const unknown = header.migrations.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Failure(`The export is of a newer version (${unknown}): use that one.`);
}

async function* batchesOf(records: Records, tables: ReadonlyMap<string, TableLayout>): AsyncGenerator<Batch, void> {
  const counts: Record<string, number> = {};
  let batch: Batch | undefined;
  let bytes = 0;
  let last = 1;
  for await (const line of records) {
    last = line.number;
    if (line.record.rows !== undefined) {
      if (batch) yield batch;
      checkCounts(line, counts);
      const { value: more } = await records.next();
      if (more) throw new Failure(`Line ${more.number} comes after the last one.`);
      return;
    }
    const { table, row } = rowOf(line, tables);
    if (batch && (batch.table !== table || batch.rows.length === ROWS_AT_ONCE || bytes + line.bytes > BYTES_AT_ONCE)) {
      yield batch;
      batch = undefined;
    }
    if (!batch) {
      batch = { table, first: line.number, rows: [] };
      bytes = 0;
    }
    batch.rows.push(row);
    bytes += line.bytes;
    counts[table.name] = (counts[table.name] ?? 0) + 1;
  }
  throw new Failure(`The input ends after line ${last}, without its counts: ${CUT}.`);
}

function rowOf({ number, record }: Numbered, tables: ReadonlyMap<string, TableLayout>) {
  const table = tables.get(String(record.table));
  if (!table) throw new Failure(`Line ${number}: there is no table ${JSON.stringify(record.table ?? null)}.`);
  if (!isObject(record.row)) throw new Failure(`Line ${number} has no row.`);
  const row = parseRow(table, record.row);
  if (typeof row === "string") throw new Failure(`Line ${number}: ${row}.`);
  return { table, row };
}

function checkCounts({ number, record }: Numbered, counts: Record<string, number>): void {
  const given = isObject(record.rows) ? record.rows : {};
  const names = [...new Set([...Object.keys(given), ...Object.keys(counts)])];
  const wrong = names.find((name) => (given[name] ?? 0) !== (counts[name] ?? 0));
  if (wrong === undefined) return;
  throw new Failure(`Line ${number} counts ${given[wrong] ?? 0} rows of ${wrong}, and there are ${counts[wrong] ?? 0}.`);
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
