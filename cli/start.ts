import type { AddressInfo } from "node:net";
import { type Config, readConfig } from "../lib/config.ts";
import { createDeps, type Deps } from "../lib/deps.ts";
import { explained } from "./explain.ts";
import { serve } from "./serving.ts";

/** Serves every function on this machine, until SIGTERM or SIGINT. Throws `ConfigError`. */
export async function start(): Promise<void> {
  const config = readConfig(process.env, ["upstream", "bus"]);
  const demo = config.upstream.key === undefined && config.upstream.url === undefined ? await startDemo(config) : null;
  const deps = await explained(createDeps(demo?.config ?? config));
  await explained(deps.store.migrate());
  const server = await serve(deps, async () => demo?.close());
  greet(server.address() as AddressInfo, deps, demo !== null);
}

/** The built-in model takes the upstream's place, on loopback. */
async function startDemo(config: Config) {
  const demo = await (await import("../lib/llm/demo.ts")).startDemo();
  return { config: { ...config, upstream: { ...config.upstream, url: demo.url } }, close: () => demo.close() };
}

function greet({ address, family, port }: AddressInfo, { config, log }: Deps, demo: boolean): void {
  const url = `http://${family === "IPv6" ? `[${address}]` : address}:${port}`;
  log({ severity: "INFO", message: `proxy-gpt listens on ${url}`, store: config.store.kind });
  if (demo)
    log({
      severity: "WARNING",
      message: "API_KEY is not set: a built-in demo model answers. Set API_KEY to an OpenAI key for real answers.",
    });
}
