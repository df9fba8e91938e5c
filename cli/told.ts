import { ApiError } from "../lib/http/error.ts";
import { storeError } from "../lib/store/store.ts";
import { Failure } from "./failure.ts";

/** Postgres' words for a table or a column that is not there. */
const NOT_MIGRATED = new Set(["42P01", "42703"]);

/** For a store without the tables that this version has. */
export const NOT_UP_TO_DATE = "The store's tables are missing or not up to date. Run: npm run migrate";

/** What is to be told of a failure: never a statement with its data. What nobody foresaw stays as it is. */
export function told(error: unknown): unknown {
  if (error instanceof ApiError) return new Failure(error.message);
  const failure = storeError(error);
  if (!failure) return error;
  return new Failure(
    NOT_MIGRATED.has(failure.code ?? "") ? NOT_UP_TO_DATE : `The store did not answer as asked (${failure.code ?? "no answer"}).`,
  );
}
