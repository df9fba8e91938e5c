/** The first line: what the file is, and the migrations that its data is of. */
export type Header = { format: typeof FORMAT; version: number; migrations: readonly string[] };
/** Every other line but the last: a row by the names of its columns, times in ISO 8601. */
export type RowLine = { table: string; row: Record<string, unknown> };
/** The last line: how many rows there are of each table. */
export type Footer = { rows: Record<string, number> };

export const FORMAT = "proxy-gpt-export";
export const VERSION = 1;
