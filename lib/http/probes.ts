import type { Deps } from "../deps.ts";
import { version } from "../version.ts";
import type { FunctionSpec } from "./endpoint.ts";
import { openApi } from "./openapi.ts";

type Answer = (deps: Deps) => Response | Promise<Response>;

/** What every function answers to anyone, unaudited: a greeting, its health, and its description. */
export function probes(functions: readonly FunctionSpec[]): Map<string, Answer> {
  const hello: Answer = () => new Response("Hello, World!", { headers: { "content-type": "text/html; charset=utf-8" } });
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

const health: Answer = async ({ store, config, log }) => {
  const up = await store.ping().then(
    () => true,
    (error) => {
      log({ severity: "WARNING", message: "store is down", code: error.code });
      return false;
    },
  );
  const body = { status: up ? "ok" : "unavailable", version, store: { kind: config.store.kind, up } };
  return Response.json(body, { status: up ? 200 : 503 });
};
