/** Where progress is told: standard error, as a rule. */
export type Screen = Pick<NodeJS.WriteStream, "write"> & { isTTY?: boolean; columns?: number };
export type Progress = {
  /** So many more rows are done, and the last of them were of this table. */
  add(table: string, rows: number): void;
  /** Takes the bar away. */
  end(): void;
};

const CLEARED = "\r\u001b[2K";
const BAR_WIDTH = 20;
const DRAWN_EVERY_MS = 100;
const TOLD_EVERY_MS = 3_000;

/** A bar on a terminal, else a line every three seconds. `total`: how many rows there will be, where that is known. */
export function progress(screen: Screen, total?: number, now: () => number = () => performance.now()): Progress {
  const startedAt = now();
  const everyMs = screen.isTTY ? DRAWN_EVERY_MS : TOLD_EVERY_MS;
  let toldAt = startedAt;
  let done = 0;
  return {
    add(table, rows) {
      done += rows;
      const at = now();
      if (at - toldAt < everyMs) return;
      toldAt = at;
      const text = `${table}: ${described(done, total)}, ${grouped((done * 1_000) / (at - startedAt))} rows/s`;
      // A terminal that does not know its width says 0. A bar that is wider than it would be left standing.
      screen.write(screen.isTTY ? CLEARED + `${bar(done, total)}${text}`.slice(0, (screen.columns || 80) - 1) : `${text}\n`);
    },
    end() {
      if (screen.isTTY) screen.write(CLEARED);
    },
  };
}

function described(done: number, total: number | undefined): string {
  if (!total) return `${grouped(done)} rows`;
  return `${grouped(done)} of ${grouped(total)} rows, ${Math.floor(share(done, total) * 100)}%`;
}

function bar(done: number, total: number | undefined): string {
  return total ? `[${"#".repeat(Math.floor(share(done, total) * BAR_WIDTH)).padEnd(BAR_WIDTH, "-")}] ` : "";
}

/** Rows that were added since they were counted make it no more than all. */
const share = (done: number, total: number) => Math.min(1, done / total);
const grouped = (rows: number) => Math.round(rows).toLocaleString("en");
