import { subscribe } from "node:diagnostics_channel";
import { type IncomingMessage, Server, type ServerResponse } from "node:http";
import { ConfigError, readConfig } from "../config.ts";
import { createDeps } from "../deps.ts";
import type { FunctionSpec } from "./endpoint.ts";
import { attach, createListener, type Listener } from "./listen.ts";

export type Handler = (req: IncomingMessage, res: ServerResponse) => void;

/**
 * A function's entry under functions-framework. The framework would parse and buffer every body and cut streams on SIGTERM, so
 * its server is taken over as it starts to listen: the diagnostics channel names it before the first connection. Where that
 * does not happen the handler that is returned serves the same listener, with bodies that were read before us.
 */
export function serveFunction(spec: FunctionSpec): Handler {
  let listener: Promise<Listener> | undefined;
  const ready = () => {
    listener ??= start(spec);
    return listener;
  };
  let taken = false;
  subscribe("tracing:net.server.listen:asyncStart", (message) => {
    const { server } = message as { server?: unknown };
    if (taken || !(server instanceof Server)) return;
    taken = true;
    void ready().then((it) => takeOver(server, it));
    // Requests that arrive before the listener is built wait for it.
    for (const event of ["request", "upgrade"] as const) server.removeAllListeners(event);
    server.on("request", (req, res) => void ready().then((it) => it.request(req, res)));
    server.on("upgrade", (req, socket, head) => void ready().then((it) => it.upgrade(req, socket, head)));
  });
  return (req, res) => void ready().then((it) => it.request(req, res));
}

async function start(spec: FunctionSpec): Promise<Listener> {
  try {
    const config = readConfig(process.env, spec.needs);
    return createListener([spec], await createDeps(config));
  } catch (error) {
    const lines = error instanceof ConfigError ? error.problems : [`The function ${spec.name} could not start: ${String(error)}`];
    for (const line of lines) process.stderr.write(`${JSON.stringify({ severity: "CRITICAL", message: line })}\n`);
    process.exit(1);
  }
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
