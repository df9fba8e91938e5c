import { Redis } from "ioredis";
import { redisUrl } from "../support/redis.ts";
import { newId, type ServerBackend } from "./adapters.ts";

export type CommandLog = { all(): Promise<string[][]>; clear(): void; close(): void };

/** What is asked of the server: what is billed on Upstash, and on Redis what reaches it in the database of the test. */
export async function listenToCommands({ admin, bridge }: ServerBackend): Promise<CommandLog> {
  if (bridge) {
    const clear = () => void bridge.commands.splice(0);
    return { all: async () => [...bridge.commands], clear, close: () => {} };
  }
  const monitor = await new Redis(String(redisUrl)).monitor();
  const commands: string[][] = [];
  const database = String(admin.options.db);
  let marker = "";
  let reached = () => {};
  monitor.on("monitor", (_time: string, args: string[], source: string, from: string) => {
    if (args[1] === marker) reached();
    else if (from === database && source !== "lua") commands.push(args);
  });
  return {
    /** The server runs one command after the other, so that a marker ends what came before it. */
    all: async () => {
      marker = newId();
      const done = new Promise<void>((resolve) => {
        reached = resolve;
      });
      await admin.echo(marker);
      await done;
      return [...commands];
    },
    clear: () => void commands.splice(0),
    close: () => monitor.disconnect(),
  };
}
