import { once } from "node:events";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import type { Command } from "./command.ts";

export type Server = {
  url: string;
  pid: number;
  /** Every line of its log so far. */
  lines: Record<string, unknown>[];
  /** Sends the signal and waits for the end: the exit code, or null where the signal itself was the end. */
  stop(signal: NodeJS.Signals): Promise<number | null>;
};

/** Runs `start` on a free port, and resolves when it listens. Rejects with what it said when it ends before that. */
export async function serve(command: Command, env: Record<string, string>): Promise<Server> {
  const child = command.start(["start"], { env: { PORT: "0", ...env } });
  const said = text(child.stderr);
  const closed = once(child, "close") as Promise<[number | null]>;
  const lines: Record<string, unknown>[] = [];
  const url = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      const entry = JSON.parse(line) as Record<string, unknown>;
      lines.push(entry);
      const [, address] = /listens on (\S+)/.exec(String(entry.message)) ?? [];
      if (address) resolve(address);
    });
    closed.then(async ([code]) => reject(new Error(`the server ended with ${code}: ${await said}`)), reject);
  });
  const stop = async (signal: NodeJS.Signals) => {
    child.kill(signal);
    return (await closed)[0];
  };
  return { url, pid: child.pid as number, lines, stop };
}
