import { type AnyColumn, Column, fillPlaceholders, is, SQL, sql } from "drizzle-orm";
import type { Store } from "./store.ts";

/** What the placeholders of a statement stand for, by their names. */
export type Values = Readonly<Record<string, unknown>>;
type Query = { toSQL(): { sql: string; params: unknown[] } };
type Fields = Readonly<Record<string, AnyColumn | SQL | SQL.Aliased>>;
/** A query whose rows are wanted, and the fields that it selects. */
type Reading<Row> = { query: Query; fields: Fields; row?: Row };
type Statements = readonly (Query | Reading<unknown>)[];
type Rows<S extends Statements> = { -readonly [K in keyof S]: S[K] extends Reading<infer Row> ? Row[] : unknown[][] };

/** What differs from one run of a compiled statement to the next; in a row or a comparison that needs it, as a column's value. */
export const given = (name: string, column?: AnyColumn): SQL =>
  sql`${column ? sql.param(sql.placeholder(name), column) : sql.placeholder(name)}`;

/** A query of a compiled transaction whose rows are wanted; `fields` are those that it selects. */
export const reading = <Row>(fields: Fields, query: Query & PromiseLike<Row[]>): Reading<Row> => ({ query, fields });

/**
 * A transaction whose statements are built once for each store, where building them anew would take longer than SQLite needs to
 * run them; what differs is `given`. It is run as `atomic` does, in one round trip, and answers the rows of each statement.
 */
export function compiled<const S extends Statements>(
  build: (store: Store) => S,
): (store: Store, values: Values) => Promise<Rows<S>> {
  const known = new WeakMap<Store, ReturnType<typeof compile>[]>();
  return async (store, values) => {
    const statements = known.get(store) ?? build(store).map(compile);
    known.set(store, statements);
    const filled = statements.map(({ sql, params }) => ({ sql, params: fillPlaceholders(params, values) }));
    const results = await store.run(filled);
    return statements.map(({ read }, i) => results[i]?.map(read)) as Rows<S>;
  };
}

function compile(statement: Statements[number]) {
  const { query, fields } = "query" in statement ? statement : { query: statement, fields: null };
  const { sql, params } = query.toSQL();
  return { sql, params, read: fields ? readerOf(fields) : (row: unknown[]): unknown => row };
}

/** As drizzle reads a row of an unnested selection. */
function readerOf(fields: Fields): (row: unknown[]) => unknown {
  const decoders = Object.entries(fields).map(([name, field]) => [name, decoderOf(field)] as const);
  return (row) =>
    Object.fromEntries(decoders.map(([name, it], i) => [name, row[i] === null ? null : it.mapFromDriverValue(row[i])]));
}

function decoderOf(field: Fields[string]): { mapFromDriverValue(value: unknown): unknown } {
  if (is(field, Column)) return field;
  // drizzle has it, and leaves it out of its types.
  return ((is(field, SQL) ? field : field.sql) as unknown as { decoder: ReturnType<typeof decoderOf> }).decoder;
}
