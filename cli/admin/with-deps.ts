import { readConfig } from "../../lib/config.ts";
import { createDeps, type Deps } from "../../lib/deps.ts";
import { ApiError } from "../../lib/http/error.ts";
import { createLog } from "../../lib/log.ts";
import { storeError } from "../../lib/store/store.ts";
import { explained } from "../explain.ts";
import { Failure } from "../failure.ts";

/** Postgres' words for a table or a column that is not there. */
const NOT_MIGRATED = new Set(["42P01", "42703"]);

/**
 * Opens the store that the settings name, does the work and closes it. A SQLite file is brought up to date first, as a server
 * would; a database that several instances share is not. Throws `ConfigError` and `Failure`, never a statement with its data.
 */
export async function withDeps(work: (deps: Deps) => Promise<void>): Promise<void> {
  const config = readConfig(process.env);
  const deps = await explained(createDeps(config, { log: createLog(process.stderr) }));
  try {
    await explained<unknown>(config.store.kind === "sqlite" ? deps.store.migrate() : deps.store.ping());
    await work(deps);
  } catch (error) {
    throw told(error);
  } finally {
    await deps.close(0);
  }
}

function told(error: unknown): unknown {
  if (error instanceof ApiError) return new Failure(error.message);
  const failure = storeError(error);
  if (!failure) return error;
  return new Failure(
    NOT_MIGRATED.has(failure.code ?? "")
      ? "The store's tables are missing or not up to date. Run: npm run migrate"
      : `The store did not answer as asked (${failure.code ?? "no answer"}).`,
  );
}
