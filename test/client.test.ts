import { afterAll, beforeAll, expect, expectTypeOf, test } from "vitest";
import { functions } from "../functions/all.ts";
import type { system } from "../functions/system/endpoints.ts";
import type { user } from "../functions/user/endpoints.ts";
import { CallError, createClient } from "../lib/http/client.ts";
import { isEndpoint, parseRoute } from "../lib/http/endpoint.ts";
import { type App, PASSWORD, startApp } from "./support/app.ts";

let app: App;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

test("a client is typed by the functions' own declarations", async () => {
  const anonymous = createClient<typeof user>(app.url);
  const { token, user: me } = await anonymous("user.signup", { username: "typed", password: PASSWORD });
  expectTypeOf(me.username).toEqualTypeOf<string>();
  const client = createClient<typeof user | typeof system>(app.url, token);
  expect((await client("user.read", {})).user).toEqual(me);
  const { events } = await client("system.events", { endpoint: "user.signup" });
  expect(events.map((event) => event.user_id)).toEqual([me.id]);
});

test("a refusal is a CallError with the envelope's code, status and request id", async () => {
  const client = createClient<typeof user>(app.url);
  const refusal = await client("user.login", { username: "nobody", password: "wrong" }).catch((error: unknown) => error);
  expect(refusal).toBeInstanceOf(CallError);
  expect(refusal).toMatchObject({ status: 401, code: "wrong_password", requestId: expect.stringMatching(/^[0-9a-f-]{36}$/) });
});

test("every endpoint answers POST at its name, but for those whose path the documents have fixed", () => {
  const elsewhere = functions.flatMap(({ endpoints }) =>
    endpoints.filter(isEndpoint).filter(({ name, route }) => {
      const { methods, path } = parseRoute(route);
      return !methods.includes("POST") || path !== `/${name.replaceAll(".", "/")}`;
    }),
  );
  expect(elsewhere.map(({ name }) => name).sort()).toEqual([
    ...["chat.clear", "chat.conversation", "chat.converse", "chat.v1.chat.completions", "chat.v1.models"],
    ...["img.converse", "img.describe", "mod.check"],
    ...["system.chat.read", "system.chat.update", "system.read", "system.update"],
  ]);
});
