import type { SQL } from "drizzle-orm";
import { DrizzleQueryError } from "drizzle-orm";
import type { PgDatabase, PgQueryResultHKT } from "drizzle-orm/pg-core";
import type { Tables } from "../../schema/tables.ts";

export type Db = PgDatabase<PgQueryResultHKT>;

/** A compiled statement: text in the store's dialect and its parameters in driver form. */
export type Statement = { readonly sql: string; readonly params: readonly unknown[] };

/** The truth: one schema over SQLite, Postgres (TCP) and Neon (HTTP). */
export type Store = Tables & {
  readonly db: Db;
  /**
   * The only multi-statement write: all or nothing, one round trip on Neon. Statements may depend on each other through
   * the database, never through JavaScript, and must be safe to repeat: over HTTP a lost answer leaves the commit unknown.
   */
  atomic<const Q extends readonly PromiseLike<unknown>[]>(build: (q: Db) => Q): Promise<Results<Q>>;
  /** The text of a statement in this store's dialect, for hot paths that compile once. */
  compile(statement: SQL): string;
  /** Runs compiled statements as `atomic` does. Answers the rows of each, as arrays of driver values. */
  run(statements: readonly Statement[]): Promise<unknown[][][]>;
  /** Opens one state of the store, which stays the same for as long as it is read. */
  snapshot(): Promise<Snapshot>;
  /** Applies the migrations that are missing and answers their names. Safe when two run at once. */
  migrate(): Promise<string[]>;
  /** Messages that were made up to this instant have expired, and no query finds them. Null: none has. */
  expiredAt(): Date | null;
  /** Ends a `select` of rows that are to be deleted: those that another transaction has are left to that one. */
  readonly leavingTaken: SQL;
  /** Throws a `StoreError` when the store cannot be reached. */
  ping(): Promise<void>;
  close(): Promise<void>;
};

/** To be read, and ended. Over HTTP, which keeps nothing between two queries, each finds the state of its own time. */
export type Snapshot = { readonly db: Db; end(): Promise<void> };

type Results<Q extends readonly PromiseLike<unknown>[]> = { -readonly [K in keyof Q]: Awaited<Q[K]> };

/** What the store could not do. `code` is SQLite's name or Postgres' SQLSTATE where the store gave one. */
export class StoreError extends Error {
  override readonly name = "StoreError";
  readonly code: string | undefined;
  constructor(cause: unknown) {
    super("The store did not answer as asked.", { cause });
    this.code = codeOf(cause);
  }
  /** True where a unique or foreign key refused the write. */
  get conflict(): boolean {
    return /^(SQLITE_CONSTRAINT|23)/.test(this.code ?? "");
  }
  /** True where what was to be added is there already. */
  get duplicate(): boolean {
    return /^(SQLITE_CONSTRAINT_(PRIMARYKEY|UNIQUE)|23505)/.test(this.code ?? "");
  }
  /** True where the statement or its data is to blame, so that trying again cannot help; else the store is not usable now. */
  get permanent(): boolean {
    return /^(SQLITE_(CONSTRAINT|ERROR|MISMATCH|RANGE|TOOBIG)|2[123]|42)/.test(this.code ?? "");
  }
}

/** The `StoreError` behind a thrown value, or null when the store had no part in it. */
export function storeError(thrown: unknown): StoreError | null {
  if (thrown instanceof StoreError) return thrown;
  return thrown instanceof DrizzleQueryError ? new StoreError(thrown.cause) : null;
}

/** The same work; what it fails with is a `StoreError`. */
export async function orStoreError<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw storeError(error) ?? new StoreError(error);
  }
}

/** Work over HTTP whose answer was lost is asked again once, with the same ids; a store that is down is not waited for. */
export async function twice<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const failure = storeError(error) ?? new StoreError(error);
    if (failure.permanent) throw failure;
    return await work();
  }
}

function codeOf(cause: unknown): string | undefined {
  for (let error = cause; error instanceof Error; error = error.cause) {
    if ("code" in error && typeof error.code === "string") return error.code;
  }
  return undefined;
}
