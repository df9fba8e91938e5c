import { BUS_OPTIONS, type Bus, type BusAddress, type BusOptions } from "./bus.ts";

/** Opens the bus that the address names; only that adapter and its driver are loaded. */
export async function openBus(address: BusAddress, options: Partial<BusOptions> = {}): Promise<Bus> {
  const all = { ...BUS_OPTIONS, ...options };
  switch (address.kind) {
    case "memory":
      return (await import("./memory.ts")).openMemory(all);
    case "redis":
      return (await import("./redis.ts")).openRedis(address.url, all);
    case "upstash":
      return (await import("./upstash.ts")).openUpstash(address, all);
  }
}
