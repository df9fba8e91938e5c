import { getTableColumns, inArray, is, type SQL, sql } from "drizzle-orm";
import { type PgColumn, PgTable } from "drizzle-orm/pg-core";
import type { ColumnLayout, TableLayout } from "../store/layout.ts";
import { type Db, type Store, storeError, twice } from "../store/store.ts";

/** A row by the names of its columns: times as `Date`, flags as booleans. */
export type Row = Record<string, unknown>;
/** Where a row stands in its table, and how long its texts are together. */
export type Place = { key: readonly string[]; bytes: number };
/** A store that is read whole. `bytewise`: its own order of texts is that of their bytes. */
export type Reader = { store: Store; db: Db; bytewise: boolean };

/** How many rows are read at once, at most. */
export const MOST_ROWS = 500;
/** How many rows one statement adds. Few sizes, as each is a statement that the store prepares and keeps. */
const AT_ONCE = [64, 8, 1] as const;
/** As a statement that comes last it takes back what came before. */
const NO_SUCH_TABLE = sql`rows_that_are_not_to_stay`;
const NO_SUCH_TABLE_CODE = /^(SQLITE_ERROR|42P01)$/;

/** Reads through `db`. An index of Postgres is of use only in the order that it has, which depends on the database. */
export async function readerOf(store: Store, db: Db): Promise<Reader> {
  if (!is(store.users, PgTable)) return { store, db, bytewise: true };
  const provider = sql`coalesce(to_jsonb(pg_database)->>'datlocprovider', 'c')`;
  const plain = sql`${provider} = 'c' and datcollate ~* '^(C|POSIX)([.]utf-?8)?$'`;
  const answer = { bytewise: sql<boolean>`${provider} = 'b' or (${plain})` };
  const [found] = await db.select(answer).from(sql`pg_database`).where(sql`datname = current_database()`);
  return { store, db, bytewise: found?.bytewise === true };
}

/** The names of the migrations that the store has, oldest first; null where it has never been migrated. */
export async function migrationsOf(db: Db): Promise<string[] | null> {
  try {
    const found = await db.select({ name: sql<string>`name` }).from(sql`migrations`).orderBy(sql`name`);
    return found.map(({ name }) => name);
  } catch (error) {
    if (NO_SUCH_TABLE_CODE.test(storeError(error)?.code ?? "")) return null;
    throw error;
  }
}

export async function count({ store, db }: Pick<Reader, "store" | "db">, layout: TableLayout): Promise<number> {
  const [found] = await db.select({ rows: sql`count(*)`.mapWith(Number) }).from(tableOf(store, layout));
  return found?.rows ?? 0;
}

export async function isEmpty(store: Store, layout: TableLayout): Promise<boolean> {
  return (await store.db.select({ one: sql`1` }).from(tableOf(store, layout)).limit(1)).length === 0;
}

/** Up to `limit` places after one, or from the first, in the order of the keys' bytes: the same in every store. */
export async function placesAfter(
  reader: Reader,
  layout: TableLayout,
  after: Place | undefined,
  limit: number,
): Promise<Place[]> {
  const table = tableOf(reader.store, layout);
  const keys = columnsOf(table, layout.key);
  const lengths = columnsOf(table, layout.columns.filter(isText)).map((column) => sql`coalesce(octet_length(${column}), 0)`);
  const bytes = sql.join([sql`0`, ...lengths], sql` + `);
  const order = keys.map((column) => ordered(reader, column));
  const values = after?.key.map((value) => sql`${value}`);
  const found = await reader.db
    .select({ ...Object.fromEntries(keys.map((column, i) => [`key${i}`, column])), bytes: bytes.mapWith(Number) })
    .from(table)
    .where(values && sql`(${sql.join(order, sql`, `)}) > (${sql.join(values, sql`, `)})`)
    .orderBy(...order)
    .limit(limit);
  return found.map((row) => ({ key: keys.map((_, i) => String(row[`key${i}` as "bytes"])), bytes: row.bytes }));
}

/** The rows at up to `MOST_ROWS` places that are still there, in the same order. */
export async function rowsAt(reader: Reader, layout: TableLayout, places: readonly Place[]): Promise<Row[]> {
  const table = tableOf(reader.store, layout);
  const keys = columnsOf(table, layout.key);
  const [only, ...more] = keys;
  if (!only) throw new Error(`${layout.name} has no primary key`);
  // Always as many, so that it is one statement however many are wanted.
  const padded = Array.from({ length: MOST_ROWS }, (_, i) => places[Math.min(i, places.length - 1)]?.key ?? []);
  const values = padded.map(
    (key) =>
      sql`(${sql.join(
        key.map((value) => sql`${value}`),
        sql`, `,
      )})`,
  );
  const wanted =
    more.length === 0
      ? inArray(
          only,
          padded.map(([value]) => value),
        )
      : sql`(${sql.join(keys, sql`, `)}) in (values ${sql.join(values, sql`, `)})`;
  const found = await reader.db
    .select(getTableColumns(table))
    .from(table)
    .where(wanted)
    .orderBy(...keys.map((column) => ordered(reader, column)));
  return found.map((row) => Object.fromEntries(layout.columns.map(({ field, name }) => [name, row[field]])));
}

/** Adds the rows whose primary keys are not there yet, all or nothing; answers how many. Safe to repeat. */
export async function addMissing(store: Store, layout: TableLayout, rows: readonly Row[]): Promise<number> {
  const added = await twice(() => store.atomic((q) => inserts(store, q, layout, rows)));
  return added.reduce((sum, keys) => sum + keys.length, 0);
}

/** Which of these rows, that are not taken together, is the first to be refused. Adds none of them. */
export async function firstRefused(store: Store, layout: TableLayout, rows: readonly Row[]): Promise<number> {
  let [taken, refused] = [0, rows.length];
  while (refused - taken > 1) {
    const half = Math.floor((taken + refused) / 2);
    if (await wouldTake(store, layout, rows.slice(0, half))) taken = half;
    else refused = half;
  }
  return taken;
}

async function wouldTake(store: Store, layout: TableLayout, rows: readonly Row[]): Promise<boolean> {
  try {
    await store.atomic((q) => [...inserts(store, q, layout, rows), q.select({ one: sql`1` }).from(NO_SUCH_TABLE)]);
  } catch (error) {
    const failure = storeError(error);
    if (!failure?.permanent) throw error;
    return NO_SUCH_TABLE_CODE.test(failure.code ?? "");
  }
  throw new Error("a statement that cannot be run was run");
}

function inserts(store: Store, q: Db, layout: TableLayout, rows: readonly Row[]) {
  const table = tableOf(store, layout);
  const target = columnsOf(table, layout.key);
  const values = rows.map((row) => Object.fromEntries(layout.columns.map(({ field, name }) => [field, row[name]])));
  const statements = [];
  for (let from = 0; from < values.length; ) {
    const size = AT_ONCE.find((it) => it <= values.length - from) ?? 1;
    const insert = q.insert(table).values(values.slice(from, from + size));
    statements.push(insert.onConflictDoNothing({ target }).returning({ key: target[0] as PgColumn }));
    from += size;
  }
  return statements;
}

const isText = ({ kind }: ColumnLayout) => kind === "string";
const tableOf = (store: Store, { of }: TableLayout) => store[of] as PgTable;

function columnsOf(table: PgTable, columns: readonly ColumnLayout[]): PgColumn[] {
  const all = getTableColumns(table);
  return columns.map(({ field }) => all[field] as PgColumn);
}

const ordered = ({ bytewise }: Reader, column: PgColumn): SQL => (bytewise ? sql`${column}` : sql`${column} collate "C"`);
