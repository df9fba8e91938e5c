import { type Column, getTableColumns, is, SQL, sql, type Table } from "drizzle-orm";

/** A row as an insert takes it from a `select`: in the order of its table's columns, each value of its column's type. */
export const valuesOf = <T extends Table>(table: T, row: { [K in keyof T["$inferSelect"]]: T["$inferSelect"][K] | SQL }): SQL => {
  const values = Object.entries(getTableColumns(table)).map(([key, column]) => {
    const value = row[key as keyof typeof row];
    return is(value, SQL) ? value : typed(value, column);
  });
  return sql.join(values, sql`, `);
};

/** A value of a `select`, whose type Postgres would not know. */
const typed = (value: unknown, column: Column): SQL => sql`cast(${sql.param(value, column)} as ${sql.raw(column.getSQLType())})`;
