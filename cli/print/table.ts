import { cut, visible, widthOf } from "./visible.ts";

export type Column<R> = {
  title: string;
  text(record: R): string | number | null;
  right?: boolean;
  /** Cut after all others, as a part of it is of no use: an id. */
  whole?: boolean;
  /** Left out where the terminal is too narrow. */
  spare?: boolean;
};

const GAP = "  ";
const LEAST_WIDTH = 6;

/**
 * Formats records as aligned columns, a batch at a time; the first answer begins with the titles, and its widths hold for later
 * ones where they can. Where the terminal is too narrow the widest columns give way, and long texts are cut.
 */
export function table<R>(all: readonly Column<R>[], terminalWidth: number): (records: readonly R[]) => string[] {
  let columns = all;
  let widths: number[] | undefined;

  const cellsOf = (records: readonly R[]) =>
    records.map((record) => columns.map((column) => visible(String(column.text(record) ?? ""))));
  const naturalOf = (rows: readonly string[][]) =>
    columns.map(({ title }, i) => Math.max(widths?.[i] ?? 0, ...[title, ...rows.map((row) => row[i] ?? "")].map(widthOf)));
  const line = (cells: readonly string[], at: readonly number[]) =>
    cells
      .map((text, i) => align(cut(text, at[i] ?? 0), at[i] ?? 0, columns[i]?.right === true))
      .join(GAP)
      .trimEnd();

  return (records) => {
    let rows = cellsOf(records);
    if (!widths && totalOf(naturalOf(rows)) > terminalWidth) {
      columns = all.filter(({ spare }) => !spare);
      rows = cellsOf(records);
    }
    const titles = widths ? [] : [columns.map(({ title }) => title)];
    const giving = columns.flatMap(({ whole }, i) => (whole ? [] : [i]));
    const at = squeeze(squeeze(naturalOf(rows), terminalWidth, giving), terminalWidth, [...columns.keys()]);
    widths = at;
    return [...titles, ...rows].map((row) => line(row, at));
  };
}

const totalOf = (widths: readonly number[]) => widths.reduce((sum, width) => sum + width, GAP.length * (widths.length - 1));

/** Takes from the widest of the columns named until all fit, or none of them can give more. */
function squeeze(widths: readonly number[], terminalWidth: number, from: readonly number[]): number[] {
  const squeezed = [...widths];
  const widthAt = (i: number) => squeezed[i] ?? 0;
  for (let over = totalOf(widths) - terminalWidth; over > 0; over--) {
    const widest = from.reduce((best, i) => (widthAt(i) > widthAt(best) ? i : best), from[0] ?? 0);
    if (widthAt(widest) <= LEAST_WIDTH) break;
    squeezed[widest] = widthAt(widest) - 1;
  }
  return squeezed;
}

function align(text: string, width: number, right: boolean): string {
  const space = " ".repeat(Math.max(0, width - widthOf(text)));
  return right ? space + text : text + space;
}
