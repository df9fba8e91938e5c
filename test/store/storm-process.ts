import { openSqlite } from "../../lib/store/sqlite.ts";
import { type Field, storm } from "./storm.ts";

// A process of its own: `node storm-process.mjs FILE SEED OPERATIONS FIELD`. It says when it is ready, and begins when it is told.
const [file = "", seed, operations, field = ""] = process.argv.slice(2);
const store = openSqlite(file);
process.once("message", async () => {
  const made = await storm(store, JSON.parse(field) as Field, { operations: Number(operations), atOnce: 4, seed: Number(seed) });
  await store.close();
  process.send?.(made);
  process.disconnect();
});
process.send?.("ready");
