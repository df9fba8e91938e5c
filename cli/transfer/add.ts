import { addMissing, firstRefused } from "../../lib/repo/rows.ts";
import { type Store, type StoreError, storeError } from "../../lib/store/store.ts";
import { Failure } from "../failure.ts";
import type { Batch } from "./reading.ts";

/** Adds a batch, all or nothing, and answers how many of its rows were not there. Throws a `Failure` that names the line. */
export async function add(store: Store, { table, first, rows }: Batch): Promise<number> {
  try {
    return await addMissing(store, table, rows);
  } catch (error) {
    const failure = storeError(error);
    if (!failure) throw error;
    if (!failure.permanent)
      throw new Failure(`${lines(first, rows.length)}: the store did not answer as asked (${failure.code ?? "no answer"}).`);
    const line = first + (await firstRefused(store, table, rows));
    throw new Failure(`Line ${line}: the store does not take this row of ${table.name}: ${reasonOf(failure)} (${failure.code}).`);
  }
}

const lines = (first: number, count: number) => (count === 1 ? `Line ${first}` : `Lines ${first} to ${first + count - 1}`);

function reasonOf({ duplicate, conflict }: StoreError): string {
  if (duplicate) return "what is unique in it belongs to another row";
  return conflict ? "it refers to a row that is not there" : "a value of it cannot be kept";
}
