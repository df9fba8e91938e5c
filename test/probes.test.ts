import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { functions } from "../functions/all.ts";
import { mintToken } from "../lib/token.ts";
import { version } from "../lib/version.ts";
import { countEvents, expectOurs, expectRefusal, header } from "./support/answers.ts";
import { type App, PASSWORD, startApp } from "./support/app.ts";

const healths = ["/health", ...functions.map(({ name }) => `/${name}/health`)];

describe("with its store", () => {
  let app: App;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  test.each(["/", ...functions.map(({ name }) => `/${name}/`)])("%s greets", async (path) => {
    const answer = await app.call(path);
    expect(answer).toMatchObject({ status: 200, text: "Hello, World!" });
    expect(header(answer, "content-type")).toBe("text/html; charset=utf-8");
    expectOurs(answer);
  });

  test.each(healths)("%s is well", async (path) => {
    const answer = await app.call(path);
    expect(answer).toMatchObject({ status: 200, json: { status: "ok", version, store: { kind: "sqlite", up: true } } });
    expectOurs(answer);
    expect(await app.call(path, { method: "HEAD" })).toMatchObject({ status: 200, text: "" });
  });

  test("a probe asks for no credential, minds no wrong one, and leaves no row", async () => {
    const rows = await countEvents(app);
    for (const path of [...healths, "/", "/openapi.json"])
      for (const authorization of ["Bearer nonsense", `Bearer ${mintToken("session").token}`, "Basic"])
        expect((await app.call(path, { headers: { authorization, cookie: "sess=a; sess=b" } })).status).toBe(200);
    expect(await countEvents(app)).toBe(rows);
  });

  test.each([...healths, "/", "/openapi.json"])("%s takes GET and HEAD alone", async (path) => {
    for (const method of ["POST", "PUT", "PATCH", "DELETE"]) {
      const answer = await app.call(path, { method, ...(method === "POST" && { body: {} }) });
      expectRefusal(answer, 405, "method_not_allowed");
      expect(header(answer, "allow")).toBe("GET, HEAD, OPTIONS");
    }
  });
});

test("without its store it says so, serves nothing unaudited, and never says that it is the caller's fault", async () => {
  const app = await startApp();
  const { token } = await app.person();
  await app.deps.store.close();
  for (const path of healths) {
    const answer = await app.call(path);
    expect(answer).toMatchObject({ status: 503, json: { status: "unavailable", version, store: { kind: "sqlite", up: false } } });
    expectOurs(answer);
    expect(await app.call(path, { method: "HEAD" })).toMatchObject({ status: 503, text: "" });
  }
  expect(app.lines.filter(({ message }) => message === "store is down").length).toBeGreaterThan(0);
  const served = [
    await app.call("/user/session", { token }),
    await app.call("/user/session", { headers: { cookie: `sess=${token}` } }),
    await app.call("/v1/models", { token }),
    await app.call("/user/login", { body: { username: "somebody", password: PASSWORD } }),
    await app.call("/user/signup", { body: { username: "somebody", password: PASSWORD } }),
  ];
  for (const answer of served) {
    expectRefusal(answer, 503, "store_unavailable");
    expect(Number(header(answer, "retry-after"))).toBeGreaterThan(0);
  }
  // What needs no store is answered as ever.
  expect((await app.call("/")).text).toBe("Hello, World!");
  expect((await app.call("/openapi.json")).status).toBe(200);
  expectRefusal(await app.call("/nowhere"), 404, "not_found");
  expectRefusal(await app.call("/user/login"), 405, "method_not_allowed");
  expectRefusal(await app.call("/user/session"), 401, "unauthenticated");
  await app.close();
});
