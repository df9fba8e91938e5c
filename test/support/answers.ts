import { expect } from "vitest";
import * as events from "../../lib/repo/events.ts";
import { type App, PASSWORD, type Person } from "./app.ts";

/** An answer of `App.call`, or one from a raw socket. */
type Answered = { status: number; headers: Headers | Record<string, string>; text: string; json: unknown };

export const header = ({ headers }: Pick<Answered, "headers">, name: string): string | null =>
  headers instanceof Headers ? headers.get(name) : (headers[name] ?? null);

/** What every answer of ours carries, whatever it says. */
export function expectOurs(answer: Answered, origin = "*"): void {
  expect(header(answer, "x-proxy-gpt-request-id")).toMatch(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
  expect(header(answer, "access-control-allow-origin")).toBe(origin);
  expect(header(answer, "x-content-type-options")).toBe("nosniff");
  expect(header(answer, "referrer-policy")).toBe("no-referrer");
  expect(header(answer, "cache-control")).toBe("no-store");
  expect(header(answer, "content-security-policy")).toMatch(/^default-src 'none'/);
}

/** The status, the code, and the whole envelope in JSON with its headers; no stack, and nothing besides. */
export function expectRefusal(answer: Answered, status: number, code?: string, origin?: string): void {
  expect({ status: answer.status, text: answer.text }).toMatchObject({ status });
  expectOurs(answer, origin);
  expect(header(answer, "content-type")).toBe("application/json");
  expect(answer.json).toEqual({
    error: {
      message: expect.stringMatching(/\S.*\.$/s),
      type: expect.stringMatching(/^[a-z_]+_error$/),
      code: code ?? expect.stringMatching(/^[a-z_]+$/),
      param: expect.toSatisfy((param) => param === null || typeof param === "string"),
      source: "gateway",
      request_id: header(answer, "x-proxy-gpt-request-id"),
    },
  });
  expect(answer.text).not.toMatch(/\bat .*\.(ts|js|mjs):\d+/);
}

export const basic = (username: string, token: string) => `Basic ${Buffer.from(`${username}:${token}`).toString("base64")}`;

/** Every channel by which a token can be presented. */
export const channels = {
  bearer: ({ token }: Person) => ({ authorization: `Bearer ${token}` }),
  cookie: ({ token }: Person) => ({ cookie: `sess=${token}` }),
  basic: ({ username, token }: Person) => ({ authorization: basic(username, token) }),
} satisfies Record<string, (person: Person) => Record<string, string>>;
export const everyChannel = Object.entries(channels);

/** Both ways to send fields. */
export const encodings = {
  json: (fields: Record<string, unknown>) => ({
    body: JSON.stringify(fields),
    headers: { "content-type": "application/json" },
  }),
  form: (fields: Record<string, unknown>) => ({
    body: new URLSearchParams(Object.entries(fields).map(([name, value]) => [name, String(value)])).toString(),
    headers: { "content-type": "application/x-www-form-urlencoded" },
  }),
};
export const everyEncoding = Object.entries(encodings);

/** The same person, signed in once more. */
export async function signInAgain(app: App, { id, username }: Person): Promise<Person> {
  const { status, json, text } = await app.call("/user/login", { body: { username, password: PASSWORD } });
  if (status !== 200) throw new Error(`sign-in of ${username} answered ${status}: ${text}`);
  return { id, username, token: json.token };
}

/** The audit row of the request that was answered so. */
export async function eventOf({ deps: { store } }: App, answer: Pick<Answered, "headers">) {
  const [event] = await events.search(store, { ids: [header(answer, "x-proxy-gpt-request-id") ?? ""], limit: 1 });
  return event ?? null;
}

/** How many audit rows there are. */
export const countEvents = ({ deps: { store } }: App): Promise<number> => store.db.$count(store.events);
