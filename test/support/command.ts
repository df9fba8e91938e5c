import { type ChildProcessWithoutNullStreams, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";

// biome-ignore lint/suspicious/noExplicitAny: a test asserts what the JSON is.
export type Ran = { code: number | null; out: string; err: string; json: any[] };
export type RunOptions = { env?: Record<string, string>; input?: string };
export type Command = {
  start(words: readonly string[], options?: RunOptions): ChildProcessWithoutNullStreams;
  /** Runs it to its end. Standard input is empty unless given. `json`: the lines of standard output, where they are JSON. */
  run(words: readonly string[], options?: RunOptions): Promise<Ran>;
  /** The same through a line of shell, in which `"$@"` stands for the command and its words. */
  shell(line: string, words: readonly string[]): Promise<Ran>;
  remove(): void;
};

/**
 * Builds the command as it is shipped, in a folder of its own: the project is seen there through links, so that the build
 * races with no other test. `settings` is all that the command sees of the environment, but for its path.
 */
export async function buildCommand(settings: Record<string, string>): Promise<Command> {
  const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-command-"));
  const parts = ["cli", "functions", "lib", "schema", "node_modules", "package.json", "build.mjs"];
  const remove = () => rmSync(folder, { recursive: true, force: true });
  for (const part of parts) symlinkSync(resolve(part), join(folder, part));
  await promisify(execFile)(process.execPath, ["build.mjs", "local"], { cwd: folder }).catch((error) => {
    remove();
    throw error;
  });
  const main = join(folder, "dist/local/main.mjs");

  const start = (program: string, words: readonly string[], { env = {}, input = "" }: RunOptions = {}) => {
    const child = spawn(program, words, { cwd: join(folder, "dist"), env: { PATH: process.env.PATH, ...settings, ...env } });
    // One that ends without reading is no failure.
    child.stdin.on("error", () => {}).end(input);
    return child;
  };
  return {
    start: (words, options) => start(process.execPath, [main, ...words], options),
    run: (words, options) => ended(start(process.execPath, [main, ...words], options)),
    shell: (line, words) => ended(start("/bin/sh", ["-c", line, "sh", process.execPath, main, ...words])),
    remove,
  };
}

async function ended(child: ChildProcessWithoutNullStreams): Promise<Ran> {
  const [[code], out, err] = await Promise.all([once(child, "close"), text(child.stdout), text(child.stderr)]);
  const lines = out.split("\n").filter((line) => line.startsWith("{"));
  return { code, out, err, json: lines.map((line) => JSON.parse(line)) };
}
