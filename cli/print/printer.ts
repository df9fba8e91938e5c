import { csvLine, type Value } from "./csv.ts";
import { type Column, table } from "./table.ts";
import { visibleJson } from "./visible.ts";

export const FORMATS = ["table", "jsonl", "csv"] as const;
export type Format = (typeof FORMATS)[number];

/** A kind of record and how people read it; programs read its fields, which are named as on the wire. */
export type Listing<R> = {
  fields: readonly (keyof R & string)[];
  columns: readonly Column<R>[];
  /** Lines that follow the record's row in a table. */
  below?(record: R): readonly string[];
};

/** Where printed text goes. */
export type Output = Pick<NodeJS.WriteStream, "write"> & { columns?: number | undefined };

/** Prints records a batch at a time. What comes before the first of them (titles) is printed by the first call, also of none. */
export function printer<R extends Record<string, Value>>(
  format: Format,
  listing: Listing<R>,
  out: Output = process.stdout,
): (records: readonly R[]) => void {
  if (format === "jsonl") return (records) => lines(records.map(json), "\n", out);
  if (format === "csv") {
    let titles = [listing.fields.join(",")];
    return (records) => {
      lines([...titles, ...records.map((record) => csvLine(listing.fields.map((field) => record[field] ?? null)))], "\r\n", out);
      titles = [];
    };
  }
  const rows = table(listing.columns, out.columns ?? Number.POSITIVE_INFINITY);
  return (records) => {
    const formatted = rows(records);
    const titles = formatted.splice(0, formatted.length - records.length);
    lines([...titles, ...formatted.flatMap((row, i) => [row, ...(listing.below?.(records[i] as R) ?? [])])], "\n", out);
  };
}

/** A record as a line of JSON that a terminal shows as it is. */
export const json = (record: unknown): string => visibleJson(JSON.stringify(record));

/** Writes whole lines, to standard output unless told otherwise. */
export function lines(texts: readonly string[], end = "\n", out: Output = process.stdout): void {
  if (texts.length > 0) out.write(texts.map((text) => text + end).join(""));
}

/** The day of an instant, in UTC. */
export const dayText = (iso: string | null): string => iso?.slice(0, 10) ?? "";

/** An instant for people: UTC, to the second, in a form that `--since` takes. */
export const instantText = (iso: string): string => iso.replace(/\.\d+Z$/, "Z");
