import { readConfig } from "../../lib/config.ts";
import { createDeps, type Deps } from "../../lib/deps.ts";
import { createLog } from "../../lib/log.ts";
import { explained } from "../explain.ts";
import { told } from "../told.ts";

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
