import { type Column, getTableColumns, getTableName } from "drizzle-orm";
import { getTableConfig, type PgTable } from "drizzle-orm/pg-core";
import type { Tables } from "../../schema/tables.ts";

/** What a value is, in every dialect. */
export type Kind = "string" | "number" | "boolean" | "date" | "json";
/** `field` is what the schema calls it, `name` what the store does. */
export type ColumnLayout = { field: string; name: string; kind: Kind; nullable: boolean };
/** A table as data. `key`: the columns of its primary key. */
export type TableLayout = { of: keyof Tables; name: string; columns: readonly ColumnLayout[]; key: readonly ColumnLayout[] };

/** Every table of the schema, each after those that its foreign keys refer to. */
export async function layouts(): Promise<TableLayout[]> {
  const schema = (await import("../../schema/postgres.ts")) as unknown as Record<keyof Tables, PgTable>;
  const fields = new Map(Object.entries(schema).map(([field, table]) => [getTableName(table), field as keyof Tables]));
  const ordered = new Set<keyof Tables>();
  const add = (of: keyof Tables, from: readonly string[]) => {
    if (from.includes(of)) return;
    for (const key of getTableConfig(schema[of]).foreignKeys) {
      const parent = fields.get(getTableName(key.reference().foreignTable));
      if (parent) add(parent, [...from, of]);
    }
    ordered.add(of);
  };
  for (const of of fields.values()) add(of, []);
  return [...ordered].map((of) => layoutOf(of, schema[of]));
}

function layoutOf(of: keyof Tables, table: PgTable): TableLayout {
  const { name, primaryKeys } = getTableConfig(table);
  const keys = new Set(primaryKeys.flatMap(({ columns }) => columns.map((column) => column.name)));
  const all = Object.entries(getTableColumns(table));
  const columns = all.map(([field, column]) => ({ field, name: column.name, kind: kindOf(column), nullable: !column.notNull }));
  return { of, name, columns, key: columns.filter((_, i) => all[i]?.[1].primary || keys.has(columns[i]?.name ?? "")) };
}

const KINDS: readonly string[] = ["string", "number", "boolean", "date", "json"] satisfies Kind[];

function kindOf({ name, dataType }: Column): Kind {
  if (!KINDS.includes(dataType)) throw new Error(`the column ${name} holds what no export has a form for: ${dataType}`);
  return dataType as Kind;
}
