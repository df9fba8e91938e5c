import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** How many threads libuv works with, of its own accord. */
const THREADS = Number(process.env.UV_THREADPOOL_SIZE) || 4;

/**
 * Keeps every thread of this process busy, without using the processor, until the function that it answers is called: whoever
 * opens a pipe waits for its other end. What needs a thread (a hash, a file) waits that long.
 */
export async function holdThreads(): Promise<() => Promise<void>> {
  const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-threads-"));
  const pipes = Array.from({ length: THREADS }, (_, n) => join(folder, String(n)));
  execFileSync("mkfifo", pipes);
  const ends = pipes.map((pipe) => open(pipe, "r"));
  return async () => {
    // From a process of its own, because this one has no thread left.
    execFileSync("sh", ["-c", 'for pipe; do : >"$pipe"; done', "sh", ...pipes]);
    for (const end of await Promise.all(ends)) await end.close();
    rmSync(folder, { recursive: true });
  };
}
