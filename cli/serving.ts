import type { Server } from "node:http";
import { functions } from "../functions/all.ts";
import { ConfigError } from "../lib/config.ts";
import type { Deps } from "../lib/deps.ts";
import { createListener, listen } from "../lib/http/listen.ts";

/** Serves every function together, until SIGTERM or SIGINT, and then what `close` lets go of. Throws `ConfigError`. */
export async function serve(deps: Deps, close: () => Promise<void> = async () => {}): Promise<Server> {
  const listener = createListener(functions, deps);
  const server = await listen(listener, deps.config.listen).catch((error: NodeJS.ErrnoException) => {
    throw new ConfigError([`PORT or ADDRESS cannot be listened on (${error.code}).`]);
  });
  const stop = () => {
    void listener
      .drain(server)
      .then(close)
      .then(() => process.exit(0));
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
  return server;
}
