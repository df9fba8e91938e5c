import type { ColumnLayout, Kind, TableLayout } from "../../lib/store/layout.ts";

/** What each kind is in a file, as it is told to people. */
const NAMES: Record<Kind, string> = {
  string: "a text",
  number: "a whole number up to 2^53",
  boolean: "true or false",
  date: "a time such as 2026-01-01T00:00:00.000Z",
  json: "JSON",
};

/** A row of a file as the store takes it, or what is wrong with it in a few words. A column that it lacks is null. */
export function parseRow({ name, columns }: TableLayout, given: Record<string, unknown>): Record<string, unknown> | string {
  const unknown = Object.keys(given).find((key) => !columns.some((column) => column.name === key));
  if (unknown !== undefined) return `the table ${name} has no column ${JSON.stringify(unknown)}`;
  const row: Record<string, unknown> = {};
  for (const column of columns) {
    const value = parsed(column, given[column.name] ?? null);
    if (value === undefined) return `${name}.${column.name} is not ${NAMES[column.kind]}`;
    row[column.name] = value;
  }
  return row;
}

/** Undefined, where it is no value of the column. */
function parsed({ kind, nullable }: ColumnLayout, value: unknown): unknown {
  if (value === null) return nullable ? null : undefined;
  switch (kind) {
    case "string":
    case "boolean":
      return typeof value === kind ? value : undefined;
    case "number":
      return Number.isSafeInteger(value) ? value : undefined;
    case "date":
      return typeof value === "string" ? instantOf(value) : undefined;
    case "json":
      return value;
  }
}

function instantOf(text: string): Date | undefined {
  const instant = new Date(text);
  return Number.isNaN(instant.getTime()) || instant.toISOString() !== text ? undefined : instant;
}
