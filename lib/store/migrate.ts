import { readFile } from "node:fs/promises";
import { StoreError } from "./store.ts";

/** How a dialect runs raw statements: each call is one transaction, all or nothing. */
export type Migrations = {
  folder: "postgres" | "sqlite";
  /** Answers the rows of the last statement. */
  transaction(statements: readonly { sql: string; params: readonly unknown[] }[]): Promise<unknown[][]>;
  parameter: "?" | "$1";
};

// This file and the bundles of `npm run build` both stand two folders below the project's root.
const root = () => new URL("../../schema/migrations/", import.meta.url);

/**
 * Each migration is one transaction that first writes its own name. A second process that applies it at the same time
 * waits for the first on that name's key, is refused, and goes on: the migration is there. Throws a `StoreError`.
 */
export async function migrate({ folder, transaction, parameter }: Migrations): Promise<string[]> {
  await createLedger(transaction);
  const rows = await transaction([{ sql: "select name from migrations", params: [] }]);
  const applied = new Set(rows.map(([name]) => String(name)));
  const added: string[] = [];
  for (const name of await migrationNames(folder)) {
    if (applied.has(name)) continue;
    const text = await readFile(new URL(`${folder}/${name}.sql`, root()), "utf8");
    const statements = text.split("--> statement-breakpoint").map((sql) => ({ sql, params: [] }));
    const mark = { sql: `insert into migrations (name) values (${parameter})`, params: [name] };
    try {
      await transaction([mark, ...statements]);
      added.push(name);
    } catch (error) {
      if (!(error instanceof StoreError && error.conflict)) throw error;
    }
  }
  return added;
}

/** Two processes that create the table at once can collide in Postgres' catalog; the second time it is there. */
async function createLedger(transaction: Migrations["transaction"]) {
  const create = () =>
    transaction([{ sql: "create table if not exists migrations (name text primary key not null)", params: [] }]);
  await create().catch((error) => {
    if (!(error instanceof StoreError && error.permanent)) throw error;
    return create();
  });
}

/** The migrations that this version has, oldest first. They have the same names for either dialect. */
export async function migrationNames(folder: Migrations["folder"] = "postgres"): Promise<string[]> {
  const journal: unknown = JSON.parse(await readFile(new URL(`${folder}/meta/_journal.json`, root()), "utf8"));
  return (journal as { entries: { tag: string }[] }).entries.map((entry) => entry.tag);
}
