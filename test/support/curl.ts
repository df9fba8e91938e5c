import { execFile, spawnSync } from "node:child_process";
import { promisify } from "node:util";
import type { Person } from "./app.ts";

/** Whether there is no curl here; what was to be run with it is then named on standard error. */
export function skippedWithoutCurl(what: string): boolean {
  const missing = spawnSync("curl", ["--version"]).status !== 0;
  if (missing) process.stderr.write(`skipped: ${what} (curl is not installed)\n`);
  return missing;
}

/** A line as a document has it, for a server that is elsewhere, with options in front of its own; what is refused fails. */
export const lineFor = (line: string, url: string, more = ""): string =>
  line.replace(/http:\/\/loca(l)?host:8080/, url).replace(/^curl /, `curl -sS --fail-with-body ${more} `);

/** What a shell line writes. */
export const shell = async (line: string, cwd?: string): Promise<string> =>
  (await promisify(execFile)("sh", ["-c", line], { cwd })).stdout;

/** The options by which curl says who one is. */
export const credentials = {
  "the session's cookie": ({ token }: Person) => `--cookie 'sess=${token}'`,
  "a bearer token": ({ token }: Person) => `-H 'Authorization: Bearer ${token}'`,
};
