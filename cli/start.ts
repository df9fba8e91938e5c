import type { AddressInfo } from "node:net";
import { functions } from "../functions/all.ts";
import { type Config, ConfigError, readConfig } from "../lib/config.ts";
import { createDeps, type Deps } from "../lib/deps.ts";
import { createListener, listen } from "../lib/http/listen.ts";
import { explained } from "./explain.ts";

/** Serves every function on this machine, until SIGTERM or SIGINT. Throws `ConfigError`. */
export async function start(): Promise<void> {
  const config = readConfig(process.env, ["upstream"]);
  const demo = config.upstream.key === undefined && config.upstream.url === undefined ? await startDemo(config) : null;
  const deps = await explained(createDeps(demo?.config ?? config));
  await explained(deps.store.migrate());
  const listener = createListener(functions, deps);
  const server = await listen(listener, config.listen).catch((error: NodeJS.ErrnoException) => {
    throw new ConfigError([`PORT or ADDRESS cannot be listened on (${error.code}).`]);
  });
  greet(server.address() as AddressInfo, deps, demo !== null);

  const stop = () => {
    void listener
      .drain(server)
      .then(() => demo?.close())
      .then(() => process.exit(0));
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
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
