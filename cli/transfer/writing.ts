import { setImmediate as turn } from "node:timers/promises";
import { MOST_ROWS, type Place, placesAfter, type Reader, rowsAt } from "../../lib/repo/rows.ts";
import type { TableLayout } from "../../lib/store/layout.ts";
import { twice } from "../../lib/store/store.ts";
import { FORMAT, type Footer, type Header, type RowLine, VERSION } from "./format.ts";
import { sealer } from "./seal.ts";

const PLACES_AT_ONCE = 5_000;
const BYTES_AT_ONCE = 1024 * 1024;

/** What is written. `onRows` hears how many more rows of a table there are. */
export type Source = {
  reader: Reader;
  tables: readonly TableLayout[];
  migrations: readonly string[];
  onRows(table: string, rows: number): void;
};

/** The text of an export, in pieces of about a megabyte; a row that is longer is a piece. */
export async function* writing({ reader, tables, migrations, onRows }: Source): AsyncGenerator<string> {
  const counts: Record<string, number> = {};
  const line = sealer();
  yield line({ format: FORMAT, version: VERSION, migrations } satisfies Header);
  for (const table of tables) {
    counts[table.name] = 0;
    for await (const places of batches(reader, table)) {
      const rows = await twice(() => rowsAt(reader, table, places));
      yield rows.map((row) => line({ table: table.name, row } satisfies RowLine)).join("");
      counts[table.name] = (counts[table.name] ?? 0) + rows.length;
      onRows(table.name, rows.length);
      // SQLite answers at once, and a signal is heard between two turns only.
      await turn();
    }
  }
  yield line({ rows: counts } satisfies Footer);
}

/** The places of a table's rows, as many at once as are read into memory together. */
async function* batches(reader: Reader, table: TableLayout): AsyncGenerator<Place[]> {
  let after: Place | undefined;
  for (;;) {
    const places = await twice(() => placesAfter(reader, table, after, PLACES_AT_ONCE));
    let batch: Place[] = [];
    let bytes = 0;
    for (const place of places) {
      if (batch.length === MOST_ROWS || (batch.length > 0 && bytes + place.bytes > BYTES_AT_ONCE)) {
        yield batch;
        batch = [];
        bytes = 0;
      }
      batch.push(place);
      bytes += place.bytes;
    }
    if (batch.length > 0) yield batch;
    after = places.at(-1);
    if (places.length < PLACES_AT_ONCE) return;
  }
}
