import { ConfigError, readConfig } from "../lib/config.ts";
import { createDeps } from "../lib/deps.ts";
import { serve } from "./serving.ts";

/** Every function in one service in the cloud, over a store that was migrated before: the entry of that bundle. */
async function main(): Promise<void> {
  const config = readConfig(process.env, ["upstream", "bus"]);
  await serve(await createDeps(config));
}

main().catch((error: unknown) => {
  const lines = error instanceof ConfigError ? error.problems : [`The service could not start: ${String(error)}`];
  for (const message of lines) process.stderr.write(`${JSON.stringify({ severity: "CRITICAL", message })}\n`);
  process.exit(1);
});
