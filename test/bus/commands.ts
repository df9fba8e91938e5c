import { once } from "node:events";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { redisUrl } from "../support/redis.ts";
import { newId, type ServerBackend } from "./adapters.ts";

export type CommandLog = { all(): Promise<string[][]>; clear(): void; close(): void };

const LINE = /^\+\d+\.\d+ \[(\d+) (\S+)\] (.*)$/;

/** What is asked of the server: what is billed on Upstash, and on Redis what reaches it in the database of the test. */
export async function listenToCommands({ admin, bridge }: ServerBackend): Promise<CommandLog> {
  if (bridge) {
    const clear = () => void bridge.commands.splice(0);
    return { all: async () => [...bridge.commands], clear, close: () => {} };
  }
  const { hostname, port } = new URL(String(redisUrl));
  const socket = connect(Number(port), hostname);
  const commands: string[][] = [];
  let marker = "";
  let reached = () => {};
  // Not by the driver's own means, which fail when a command comes in the same moment as the server's consent.
  const lines = createInterface({ input: socket }).on("line", (line) => {
    const [, database, source, words = ""] = LINE.exec(line) ?? [];
    const command = [...words.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, word]) => word as string);
    if (command[1] === marker) reached();
    else if (database === String(admin.options.db) && source !== "lua") commands.push(command);
  });
  socket.write("MONITOR\r\n");
  await once(lines, "line");
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
    close: () => socket.destroy(),
  };
}
