import { mkdtempSync, rmSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { functions as everything } from "../../functions/all.ts";
import { readConfig } from "../../lib/config.ts";
import { createDeps, type Deps, type Sources } from "../../lib/deps.ts";
import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { createListener, listen } from "../../lib/http/listen.ts";
import type { StreamLimits } from "../../lib/http/viewers.ts";

/** A password that is good enough for anyone in a test. */
export const PASSWORD = "correct horse battery";
/** The shared key; its eight-character parts must never be seen outside. */
export const KEY = "sk-planted-0123456789abcdefghijklmnopqrstuvwxyz";

export type Person = { id: string; username: string; token: string };
export type App = {
  url: string;
  deps: Deps;
  /** The SQLite file, where the store is one. */
  file: string;
  /** Every line that was logged. */
  lines: Record<string, unknown>[];
  /** A request with JSON in and out. `body` undefined: GET. */
  call(path: string, options?: CallOptions): Promise<Answer>;
  /** A new person with a session. The first of an app is an admin. */
  person(name?: string): Promise<Person>;
  close(): Promise<void>;
};
export type CallOptions = { token?: string; body?: unknown; headers?: Record<string, string>; method?: string };
// biome-ignore lint/suspicious/noExplicitAny: a test asserts what the JSON is.
export type Answer = { status: number; headers: Headers; json: any; text: string };

let people = 0;

/** Starts the product in this process on loopback, on SQLite in a folder of its own unless `DB_ADDRESS` says otherwise. */
export async function startApp(
  env: Record<string, string> = {},
  {
    functions = everything,
    limits,
    ...sources
  }: Sources & { functions?: readonly FunctionSpec[]; limits?: Partial<StreamLimits> } = {},
): Promise<App> {
  const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-"));
  const file = join(folder, "proxy.db");
  const lines: Record<string, unknown>[] = [];
  const config = readConfig({
    API_KEY: KEY,
    DB_ADDRESS: `file:${file}`,
    SIGNIN_PER_MINUTE: "10000",
    SIGNUP_PER_HOUR: "10000",
    ...env,
  });
  const deps = await createDeps(config, { log: (line) => void lines.push(line), ...sources });
  await deps.store.migrate();
  const listener = createListener(functions, deps, limits);
  const server = await listen(listener, { port: 0, address: "127.0.0.1" });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  const call = async (path: string, { token, body, headers = {}, method }: CallOptions = {}): Promise<Answer> => {
    const response = await fetch(url + path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers: {
        ...(token && { authorization: `Bearer ${token}` }),
        ...(body !== undefined && typeof body !== "string" && { "content-type": "application/json" }),
        ...headers,
      },
      ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
      redirect: "manual",
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, json: parsed(text) };
  };
  return {
    url,
    deps,
    file,
    lines,
    call,
    person: async (name = `person${++people}-${process.pid}`) => {
      const { status, json, text } = await call("/user/signup", { body: { username: name, password: PASSWORD } });
      if (status !== 200) throw new Error(`signup of ${name} answered ${status}: ${text}`);
      return { id: json.user.id, username: name, token: json.token };
    },
    close: async () => {
      server.closeAllConnections();
      await listener.drain(server);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
