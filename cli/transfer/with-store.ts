import { existsSync } from "node:fs";
import { readConfig } from "../../lib/config.ts";
import { migrationsOf } from "../../lib/repo/rows.ts";
import { migrationNames } from "../../lib/store/migrate.ts";
import { openStore } from "../../lib/store/open.ts";
import type { Db, Store } from "../../lib/store/store.ts";
import { explained } from "../explain.ts";
import { Failure } from "../failure.ts";
import { NOT_UP_TO_DATE, told } from "../told.ts";

/** Opens the store that the settings name, does the work and closes it. Throws `ConfigError` and `Failure`. */
export async function withStore(work: (store: Store) => Promise<void>): Promise<void> {
  const store = await explained(openStore(readConfig(process.env).store));
  try {
    await explained(store.ping());
    await work(store);
  } catch (error) {
    throw told(error);
  } finally {
    await store.close();
  }
}

/** A file that is not there would be made, and look like a store with nothing in it. */
export function requireFile(): void {
  const { store } = readConfig(process.env);
  if (store.kind === "sqlite" && !existsSync(store.path)) throw new Failure("DB_ADDRESS names a file that is not there.");
}

/** The migrations of a store that has all that this version knows, and no other. */
export async function requireMigrations(db: Db): Promise<string[]> {
  const known = await migrationNames();
  const applied = (await migrationsOf(db)) ?? [];
  const newer = applied.find((name) => !known.includes(name));
  if (newer !== undefined) throw new Failure(`The store is of a newer version (${newer}): use that one.`);
  if (applied.length < known.length) throw new Failure(NOT_UP_TO_DATE);
  return applied;
}
