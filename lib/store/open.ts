import type { Store } from "./store.ts";

export type StoreAddress =
  | { kind: "sqlite"; path: string }
  | { kind: "postgres"; url: string }
  | { kind: "neon"; url: string; endpoint: string | undefined };

/** Opens the store that the address names; only that adapter and its driver are loaded. */
export async function openStore(address: StoreAddress): Promise<Store> {
  switch (address.kind) {
    case "sqlite":
      return (await import("./sqlite.ts")).openSqlite(address.path);
    case "postgres":
      return (await import("./postgres.ts")).openPostgres(address.url);
    case "neon":
      return (await import("./neon.ts")).openNeon(address.url, address.endpoint);
  }
}
