import { readConfig } from "../lib/config.ts";
import { openStore } from "../lib/store/open.ts";
import { explained } from "./explain.ts";

/** Brings the store's tables up to date, and says what it did. Throws `ConfigError` when the store cannot be used. */
export async function migrate(): Promise<void> {
  const store = await explained(openStore(readConfig(process.env).store));
  const added = await explained(store.migrate()).finally(() => store.close());
  console.log(added.length > 0 ? `Applied ${added.join(", ")}.` : "The store is up to date.");
}
