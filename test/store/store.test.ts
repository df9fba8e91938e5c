import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe } from "vitest";
import { openNeon } from "../../lib/store/neon.ts";
import { openPostgres } from "../../lib/store/postgres.ts";
import { openSqlite } from "../../lib/store/sqlite.ts";
import { startNeonBridge } from "../bridge/neon.ts";
import { openPglite } from "../support/pglite.ts";
import { freshDatabase, postgresUrl, skippedWithoutPostgres } from "../support/postgres.ts";
import { type Adapter, storeSuite } from "./suite.ts";

const sqlite: Adapter = {
  name: "SQLite",
  open: async () => {
    const folder = await mkdtemp(join(tmpdir(), "proxy-gpt-store-"));
    const store = openSqlite(join(folder, "proxy.db"));
    return { store, close: () => store.close().then(() => rm(folder, { recursive: true })) };
  },
};

const postgres: Adapter = {
  name: "Postgres",
  open: async () => {
    const database = await freshDatabase();
    const store = openPostgres(database.url);
    return { store, close: () => store.close().then(database.drop) };
  },
};

const pglite: Adapter = {
  name: "PGlite",
  open: async () => {
    const store = await openPglite();
    return { store, close: () => store.close() };
  },
};

const neon: Adapter = {
  name: "Neon",
  open: async () => {
    const [database, bridge] = await Promise.all([freshDatabase(), startNeonBridge(postgresUrl as string)]);
    const store = openNeon(database.url, bridge.endpoint);
    return { store, close: () => Promise.all([store.close(), bridge.close()]).then(database.drop) };
  },
};

storeSuite(sqlite);
storeSuite(postgresUrl ? postgres : pglite);
describe.skipIf(skippedWithoutPostgres("Neon store"))("over HTTP", () => storeSuite(neon));
