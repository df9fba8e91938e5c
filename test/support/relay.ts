import { setImmediate as turn } from "node:timers/promises";
import type { Sources } from "../../lib/deps.ts";
import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { type EventRow, search } from "../../lib/repo/events.ts";
import { type App, type Person, startApp } from "./app.ts";
import { startUpstream, type Upstream } from "./upstream.ts";

type Line = Record<string, unknown>;

/** The product in front of the scripted upstream, and one person who may use it. */
export type Relay = Person & {
  app: App;
  upstream: Upstream;
  /** Every line that was logged. */
  lines: Line[];
  /** `fetch` of a path of ours with the person's token; redirects are not followed. */
  get(path: string, init?: RequestInit): Promise<Response>;
  /** A completion is asked for: a POST of JSON. */
  ask(body: unknown, init?: RequestInit): Promise<Response>;
  /** The first line, past or to come, that the predicate accepts. A relayed request's line comes when its event is complete. */
  logged(accepts: (line: Line) => boolean): Promise<Line>;
  /** The event of an answer, once its line was logged. */
  eventOf(answer: Response | string): Promise<EventRow>;
  /** Forgets lines, recorded requests and the upstream's handlers. */
  reset(): void;
  close(): Promise<void>;
};

/** Starts both. `API_URL` in `env` puts something else between us and the upstream. */
export async function startRelay(
  env: Record<string, string> | ((upstream: Upstream) => Record<string, string>) = {},
  sources: Sources & { functions?: readonly FunctionSpec[] } = {},
): Promise<Relay> {
  const upstream = await startUpstream();
  const lines: Line[] = [];
  let waiters: { accepts(line: Line): boolean; resolve(line: Line): void }[] = [];
  const log = (line: Line) => {
    lines.push(line);
    waiters = waiters.filter(({ accepts, resolve }) => {
      const accepted = accepts(line);
      if (accepted) resolve(line);
      return !accepted;
    });
  };
  const logged = (accepts: (line: Line) => boolean) =>
    new Promise<Line>((resolve) => {
      const past = lines.find(accepts);
      if (past) resolve(past);
      else waiters.push({ accepts, resolve });
    });
  const settings = typeof env === "function" ? env(upstream) : env;
  const app = await startApp({ API_URL: upstream.url, ...settings }, { log, ...sources });
  const person = await app.person();
  const get = (path: string, init: RequestInit = {}) =>
    fetch(app.url + path, {
      redirect: "manual",
      ...init,
      headers: { authorization: `Bearer ${person.token}`, ...(init.headers as Record<string, string>) },
    });
  return {
    ...person,
    app,
    upstream,
    lines,
    logged,
    get,
    ask: (body, init = {}) =>
      get("/v1/chat/completions", {
        method: "POST",
        body: JSON.stringify(body),
        ...init,
        headers: { "content-type": "application/json", ...(init.headers as Record<string, string>) },
      }),
    eventOf: async (answer) => {
      const id = typeof answer === "string" ? answer : answer.headers.get("x-proxy-gpt-request-id");
      await logged((line) => line.requestId === id && "status" in line);
      const found = (await search(app.deps.store, { limit: 1000 })).find((event) => event.id === id);
      if (!found) throw new Error(`there is no event ${id}`);
      return found;
    },
    reset: () => {
      lines.length = 0;
      upstream.reset();
    },
    close: async () => {
      await Promise.all([app.close(), upstream.close()]);
    },
  };
}

/** The id of the request that a log line tells about. */
export const idOf = (line: Line): string => String(line.requestId);

/** How many TCP connections this process has, whoever's they are; those that a pool keeps for later are not counted. */
export const openSockets = (): number => process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length;

/** Turns of the event loop until it is so; fails after five seconds, unless told otherwise. */
export async function until(is: () => boolean | Promise<boolean>, patienceMs = 5_000): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!(await is())) {
    if (performance.now() > deadline) throw new Error(`not so within ${patienceMs} ms: ${is}`);
    await turn();
  }
}

/** Until a number has stopped growing: not once in 200 ms of turns of the event loop. */
export async function settled(value: () => number): Promise<void> {
  let last = value();
  let since = performance.now();
  while (performance.now() - since < 200) {
    await turn();
    if (value() === last) continue;
    last = value();
    since = performance.now();
  }
}
