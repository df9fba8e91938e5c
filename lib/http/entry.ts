import { subscribe } from "node:diagnostics_channel";
import { type IncomingMessage, Server, type ServerResponse } from "node:http";
import { type Config, ConfigError, readConfig } from "../config.ts";
import type { Need } from "../needs.ts";
import { attach, type Listener } from "./attach.ts";
import type { FunctionSpec } from "./endpoint.ts";
import { greeter } from "./greeting.ts";

export type Handler = (req: IncomingMessage, res: ServerResponse) => void;

/** A function, of which nothing but its settings is looked at before somebody asks something of it. */
export type Entry = { needs: readonly Need[]; load(): Promise<FunctionSpec> };

/**
 * A function's entry under functions-framework. The framework would parse and buffer every body and cut streams on SIGTERM, so
 * its server is taken over as it starts to listen: the diagnostics channel names it before the first connection. Where that
 * does not happen the handler that is returned serves the same listener, with bodies that were read before us.
 */
export function serveFunction(entry: Entry): Handler {
  let listener: Listener | undefined;
  const ready = () => {
    listener ??= lazyListener(entry);
    return listener;
  };
  let taken = false;
  subscribe("tracing:net.server.listen:asyncStart", (message) => {
    const { server } = message as { server?: unknown };
    if (taken || !(server instanceof Server)) return;
    taken = true;
    takeOver(server, ready());
  });
  return (req, res) => ready().request(req, res);
}

/** Greets by itself; what else is asked loads the function, and waits for it once. A setting that is wrong ends the process now. */
function lazyListener({ needs, load }: Entry): Listener {
  const config = orExit(() => readConfig(process.env, needs));
  const greet = greeter(config);
  let loaded: Listener | undefined;
  let loading: Promise<Listener> | undefined;
  const whole = () => {
    loading ??= start(config, load).then((it) => {
      loaded = it;
      return it;
    });
    return loading;
  };
  return {
    request: (req, res) => {
      if (loaded) loaded.request(req, res);
      else if (!greet(req, res)) void whole().then((it) => it.request(req, res));
    },
    upgrade: (req, socket, head) => void whole().then((it) => it.upgrade(req, socket, head)),
    clientError: (error, socket) => void whole().then((it) => it.clientError(error, socket)),
    drain: async (server, deadlineMs) => {
      if (loading) return (await loading).drain(server, deadlineMs);
      server.close();
      server.closeAllConnections();
    },
  };
}

async function start(config: Config, load: Entry["load"]): Promise<Listener> {
  try {
    const [spec, { createDeps }, { createListener }] = await Promise.all([load(), import("../deps.ts"), import("./listen.ts")]);
    return createListener([spec], await createDeps(config));
  } catch (error) {
    return refuse([`The function could not start: ${String(error)}`]);
  }
}

function orExit<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    return refuse(error instanceof ConfigError ? error.problems : [`The function could not start: ${String(error)}`]);
  }
}

function refuse(problems: readonly string[]): never {
  for (const message of problems) process.stderr.write(`${JSON.stringify({ severity: "CRITICAL", message })}\n`);
  process.exit(1);
}

function takeOver(server: Server, listener: Listener): void {
  attach(server, listener);
  const takeSignals = () => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.removeAllListeners(signal);
      process.once(signal, () => void listener.drain(server).then(() => process.exit(0)));
    }
  };
  // The framework puts its own handlers in place right after `listen`; ours replace them once it listens.
  if (server.listening) setImmediate(takeSignals);
  else server.once("listening", () => setImmediate(takeSignals));
}
