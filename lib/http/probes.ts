import type { Deps } from "../deps.ts";
import { version } from "../version.ts";
import type { FunctionSpec } from "./endpoint.ts";
import { GREETING, GREETING_TYPE } from "./greeting.ts";
import { openApi } from "./openapi.ts";

/** Answers for itself, unaudited. */
export type Probe = (deps: Deps) => Answer | Promise<Answer>;
type Answer = { status?: number; type: string; body: string };

const JSON_TYPE = "application/json";

/** What every function answers to anyone, unaudited: a greeting, its health, and its description. */
export function probes(functions: readonly FunctionSpec[]): Map<string, Probe> {
  const hello: Probe = () => ({ type: GREETING_TYPE, body: GREETING });
  const describe = (specs: readonly FunctionSpec[]): Probe => {
    let text: string | undefined;
    return () => {
      text ??= JSON.stringify(openApi(specs));
      return { type: JSON_TYPE, body: text };
    };
  };
  const answers = new Map<string, Probe>([
    ["/", hello],
    ["/health", health],
    ["/openapi.json", describe(functions)],
  ]);
  for (const spec of functions) {
    answers.set(`/${spec.name}/health`, health);
    answers.set(`/${spec.name}/openapi.json`, describe([spec]));
    answers.set(`/${spec.name}/`, hello);
    if (functions.length === 1) answers.set(`/${spec.name}`, hello);
  }
  return answers;
}

/** The store is what must be there; without the bus replies still come, and those who watch get them from the store. */
const health: Probe = async ({ store, bus, config, log }) => {
  const isUp = (what: string, asked: Promise<void>) =>
    asked.then(
      () => true,
      (error) => {
        log({ severity: "WARNING", message: `${what} is down`, code: error.code });
        return false;
      },
    );
  const [storeUp, busUp] = await Promise.all([isUp("store", store.ping()), isUp("bus", bus.ping())]);
  const status = storeUp ? (busUp ? "ok" : "degraded") : "unavailable";
  const body = { status, version, store: { kind: config.store.kind, up: storeUp }, bus: { kind: bus.kind, up: busUp } };
  return { status: storeUp ? 200 : 503, type: JSON_TYPE, body: JSON.stringify(body) };
};
