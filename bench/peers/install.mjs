/** The peers that come from npm live in a folder of their own, ignored by git, and never become the project's dependencies. */
import fs from "node:fs";
import path from "node:path";
import { run } from "../harness/processes.mjs";

const PORTKEY = "@portkey-ai/gateway";

/** @returns {Promise<string>} Portkey's server file */
export async function installPortkey(/** @type {string} */ benchFolder, /** @type {(line: string) => void} */ progress) {
  const folder = path.join(benchFolder, ".peers");
  const wanted = fs.readFileSync(path.join(benchFolder, "peers/package.json"), "utf8");
  const manifest = path.join(folder, "package.json");
  const installed = portkeyVersion(benchFolder) !== null && fs.readFileSync(manifest, "utf8") === wanted;
  if (!installed) {
    progress(`installing ${PORTKEY} ${JSON.parse(wanted).dependencies[PORTKEY]} into bench/.peers (once) …`);
    fs.mkdirSync(folder, { recursive: true });
    fs.writeFileSync(manifest, wanted);
    const quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"];
    await run("npm", ["install", ...quiet], { cwd: folder });
  }
  return path.join(folder, "node_modules", PORTKEY, "build/start-server.js");
}

/** @returns {string | null} */
export function portkeyVersion(/** @type {string} */ benchFolder) {
  const manifest = path.join(benchFolder, ".peers/node_modules", PORTKEY, "package.json");
  return fs.existsSync(manifest) ? JSON.parse(fs.readFileSync(manifest, "utf8")).version : null;
}
