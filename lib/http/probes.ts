import type { Deps } from "../deps.ts";
import { version } from "../version.ts";
import type { FunctionSpec } from "./endpoint.ts";
import { GREETING, GREETING_TYPE } from "./greeting.ts";
import { openApi } from "./openapi.ts";

type Answer = (deps: Deps) => Response | Promise<Response>;

/** What every function answers to anyone, unaudited: a greeting, its health, and its description. */
export function probes(functions: readonly FunctionSpec[]): Map<string, Answer> {
  const hello: Answer = () => new Response(GREETING, { headers: { "content-type": GREETING_TYPE } });
  const describe = (specs: readonly FunctionSpec[]): Answer => {
    let text: string | undefined;
    return () => {
      text ??= JSON.stringify(openApi(specs));
      return new Response(text, { headers: { "content-type": "application/json" } });
    };
  };
  const answers = new Map<string, Answer>([
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
const health: Answer = async ({ store, bus, config, log }) => {
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
  return Response.json(body, { status: storeUp ? 200 : 503 });
};
