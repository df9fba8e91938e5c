import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { functions } from "../functions/all.ts";
import { isEndpoint } from "../lib/http/endpoint.ts";
import { channels, countEvents, encodings, everyChannel, expectOurs, expectRefusal, header } from "./support/answers.ts";
import { type App, PASSWORD, type Person, startApp } from "./support/app.ts";
import { ask, request } from "./support/raw.ts";
import { newChat, placed, queryOf, routed, SAMPLES } from "./support/samples.ts";
import { startUpstream, type Upstream } from "./support/upstream.ts";

const LISTED = "https://app.example.com";
const OTHER = "https://evil.example";

const endpoints = functions
  .flatMap(({ endpoints }) => endpoints.filter(isEndpoint))
  .map((entry) => ({ name: entry.name, entry, ...routed(entry.route) }));
const writing = endpoints.filter(({ methods }) => !methods.includes("GET"));
const reading = endpoints.filter(({ methods }) => methods.includes("GET"));

let app: App;
let upstream: Upstream;
let admin: Person;
let person: Person;

beforeAll(async () => {
  upstream = await startUpstream();
  app = await startApp({ ALLOWED_ORIGINS: `${LISTED}, http://localhost:5173`, API_URL: upstream.url });
  admin = await app.person();
  person = await app.person();
});
afterAll(async () => {
  await app.close();
  await upstream.close();
});
beforeEach(() => upstream.reset());

/** Every way to be an answer: fine, refused at each step, or not there. */
const answers: [what: string, status: number, path: string, options?: Parameters<App["call"]>[1]][] = [
  ["a read", 200, "/user/session", { token: "yes" }],
  ["a probe", 200, "/health"],
  ["the greeting", 200, "/"],
  ["the description", 200, "/openapi.json"],
  ["bad input", 400, "/user/login", { body: { username: 5 } }],
  ["no credential", 401, "/user/session"],
  ["no right", 403, "/system/events", { token: "yes" }],
  ["nothing there", 404, "/nowhere"],
  ["nothing to see", 404, "/user/read?id=00000000-0000-7000-8000-000000000000", { token: "yes" }],
  ["another method", 405, "/user/login"],
  ["another method of a probe", 405, "/health", { method: "DELETE" }],
  ["too large a body", 413, "/user/login", { body: { username: "x".repeat(70_000) } }],
  ["another type", 415, "/user/login", { body: "<login/>", headers: { "content-type": "text/xml" } }],
  ["the relay without a credential", 401, "/v1/models"],
  ["the relay of a path that is refused", 403, "/v1/organization/users", { token: "yes" }],
];

describe("CORS", () => {
  const origins: [whose: string, origin: string | undefined, allowed: string, credentials: string | null][] = [
    ["a listed origin", LISTED, LISTED, "true"],
    ["another listed origin", "http://localhost:5173", "http://localhost:5173", "true"],
    ["an origin that is not listed", OTHER, "*", null],
    ["a listed host by another scheme", "http://app.example.com", "*", null],
    ["a listed host by another port", `${LISTED}:8443`, "*", null],
    ["a host below a listed one", "https://x.app.example.com", "*", null],
    ["a host that begins like a listed one", `${LISTED}.evil.example`, "*", null],
    ["a listed origin in capitals", LISTED.toUpperCase(), "*", null],
    ["a listed origin with a path", `${LISTED}/`, "*", null],
    ["a page without an origin", "null", "*", null],
    ["no page", undefined, "*", null],
  ];
  test.each(origins)("every answer to %s says what its page may read", async (_whose, origin, allowed, credentials) => {
    for (const [what, , path, options = {}] of answers) {
      const headers = { ...options.headers, ...(origin && { origin }) };
      const { token, ...rest } = options;
      // Its page may not sign in from there, and is told so with the same headers.
      const answer = await app.call(path, { ...rest, headers, ...(token && { token: person.token }) });
      expectOurs(answer, allowed);
      expect(header(answer, "access-control-allow-credentials"), what).toBe(credentials);
      expect(header(answer, "vary"), what).toBe("origin");
      expect(header(answer, "access-control-expose-headers"), what).toContain("x-proxy-gpt-request-id");
    }
  });

  test.each(answers)("%s is %i as ever, whoever asks", async (_what, status, path, options = {}) => {
    const { token, ...rest } = options;
    const answer = await app.call(path, { ...rest, ...(token && { token: person.token }) });
    if (status === 200) expect(answer.status).toBe(200);
    else expectRefusal(answer, status);
  });

  test("no header is there twice, also not on what the upstream answered with its own", async () => {
    for (const path of ["/v1/models", "/user/session", "/nowhere"]) {
      for (const origin of [LISTED, OTHER]) {
        const lines = ["Host: a", "Connection: close", `Origin: ${origin}`, `Authorization: Bearer ${person.token}`];
        const { rawHeaders } = await ask(app.url, request([`GET ${path} HTTP/1.1`, ...lines]));
        const names = rawHeaders.map(([name]) => name);
        expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([]);
        expect(names).toContain("access-control-allow-origin");
      }
    }
  });

  test("without listed origins an answer does not depend on who asks", async () => {
    const open = await startApp();
    for (const origin of [LISTED, "null", undefined]) {
      const answer = await open.call("/health", { headers: { ...(origin && { origin }) } });
      expect(header(answer, "vary")).toBeNull();
      expect(header(answer, "access-control-allow-origin")).toBe("*");
      expect(header(answer, "access-control-allow-credentials")).toBeNull();
    }
    await open.close();
  });

  describe("a preflight", () => {
    const preflight = (path: string, origin: string, method = "POST", headers = "authorization,content-type") =>
      app.call(path, {
        method: "OPTIONS",
        headers: { origin, "access-control-request-method": method, "access-control-request-headers": headers },
      });

    test("is answered with that route's methods and no body, wherever the page is from", async () => {
      for (const { path, methods } of endpoints)
        for (const [origin, allowed, credentials] of [
          [LISTED, LISTED, "true"],
          [OTHER, "*", null],
        ] as const) {
          const answer = await preflight(path, origin);
          expect(answer).toMatchObject({ status: 204, text: "" });
          expectOurs(answer, allowed);
          expect(header(answer, "access-control-allow-credentials")).toBe(credentials);
          const taken = header(answer, "access-control-allow-methods")?.split(", ");
          expect(taken).toEqual(expect.arrayContaining(methods));
          for (const method of ["PUT", "PATCH", "DELETE"]) expect(taken).not.toContain(method);
          expect(header(answer, "access-control-allow-headers")).toBe("authorization,content-type");
          expect(Number(header(answer, "access-control-max-age"))).toBeGreaterThan(0);
        }
    });

    test("of a probe is answered, and one of no path is 404", async () => {
      for (const path of ["/", "/health", "/openapi.json", "/user/health"]) {
        const answer = await preflight(path, OTHER, "GET", "authorization");
        expect(answer.status).toBe(204);
        expect(header(answer, "access-control-allow-methods")).toBe("GET, HEAD, OPTIONS");
      }
      expectRefusal(await preflight("/nowhere", LISTED), 404, "not_found", LISTED);
    });

    test("of the relay is ours, and never the upstream's", async () => {
      for (const method of ["GET", "POST", "DELETE"]) {
        const answer = await preflight("/v1/chat/completions", LISTED, method);
        expect(answer).toMatchObject({ status: 204, text: "" });
        expect(header(answer, "access-control-allow-origin")).toBe(LISTED);
        expect(header(answer, "access-control-allow-methods")?.split(", ")).toContain(method);
      }
      expect(upstream.requests).toHaveLength(0);
    });

    test("needs no store and leaves no trace in it", async () => {
      const rows = await countEvents(app);
      await preflight("/user/login", LISTED);
      await preflight("/v1/models", LISTED);
      expect(await countEvents(app)).toBe(rows);
      const down = await startApp({ ALLOWED_ORIGINS: LISTED });
      await down.deps.store.close();
      for (const path of ["/user/login", "/user/session", "/v1/models", "/health"]) {
        const headers = { origin: LISTED, "access-control-request-method": "GET" };
        expect((await down.call(path, { method: "OPTIONS", headers })).status).toBe(204);
      }
      await down.close();
    });
  });
});

describe("a foreign page", () => {
  /** What a browser says of where a request comes from. */
  const foreign: [where: string, headers: Record<string, string>][] = [
    ["an origin that is not listed", { origin: OTHER }],
    ["such an origin, cross-site", { origin: OTHER, "sec-fetch-site": "cross-site" }],
    ["such an origin, same-site", { origin: "https://sub.example.com", "sec-fetch-site": "same-site" }],
    ["another site, without an origin", { "sec-fetch-site": "cross-site" }],
    ["the same site, without an origin", { "sec-fetch-site": "same-site" }],
    ["no origin that it would tell", { origin: "null" }],
    ["a sandboxed frame", { origin: "null", "sec-fetch-site": "cross-site" }],
    ["a local file", { origin: "null", "sec-fetch-site": "none" }],
    ["a listed origin by another scheme", { origin: "http://app.example.com" }],
    ["a listed origin and another", { origin: `${LISTED}, ${OTHER}` }],
    ["an empty origin", { origin: "" }],
    ["a word that no browser says", { "sec-fetch-site": "same-origin, none" }],
  ];
  /** What our own pages, listed ones and programs say. */
  const welcome: [where: string, headers: Record<string, string>][] = [
    ["the same origin", { "sec-fetch-site": "same-origin", origin: "https://chat.example.org" }],
    ["the address bar", { "sec-fetch-site": "none" }],
    ["a listed origin", { origin: LISTED }],
    ["a listed origin, cross-site", { origin: LISTED, "sec-fetch-site": "cross-site" }],
    ["a program", {}],
  ];

  const ambient = everyChannel.filter(([channel]) => channel !== "bearer");
  const guarded = writing.filter(({ entry }) => !entry.access.open);
  const open = writing.filter(({ entry }) => entry.access.open);
  const originOf = ({ origin }: Record<string, string>) => (origin === LISTED ? LISTED : "*");

  test("there is something to protect", () => {
    expect(guarded.length).toBeGreaterThan(2);
    expect(open.map(({ name }) => name)).toEqual(expect.arrayContaining(["user.login", "user.signup", "user.logout"]));
  });

  test.each(foreign)("at %s writes nothing with a credential that the browser added", async (_where, headers) => {
    const rows = await countEvents(app);
    for (const { path } of guarded)
      for (const [, present] of ambient)
        for (const encode of Object.values(encodings)) {
          const { body, headers: type } = encode({ label: "x", name: "stolen", id: person.id });
          const answer = await app.call(path, { body, headers: { ...type, ...headers, ...present(person) } });
          expectRefusal(answer, 403, "origin_refused", originOf(headers));
        }
    expect(await countEvents(app)).toBe(rows);
    expect((await app.call("/user/read", { token: person.token })).json.user.name).toBeNull();
  });

  test.each(foreign)("at %s signs nobody in, up or out, with a credential or without", async (_where, headers) => {
    for (const { path } of open)
      for (const credential of [{}, ...everyChannel.map(([, present]) => present(person))]) {
        const body = { username: person.username, password: PASSWORD, token: person.token };
        const answer = await app.call(path, { body, headers: { ...headers, ...credential } });
        expectRefusal(answer, 403, "origin_refused", originOf(headers));
        expect(answer.headers.get("set-cookie")).toBeNull();
      }
    expect((await app.call("/user/session", { token: person.token })).status).toBe(200);
  });

  test.each(foreign)("at %s spends nothing at the upstream with such a credential", async (_where, headers) => {
    for (const method of ["POST", "PUT", "PATCH", "DELETE"])
      for (const [, present] of ambient) {
        const body = JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] });
        const options = { method, body, headers: { ...headers, ...present(person), "content-type": "application/json" } };
        expectRefusal(await app.call("/v1/chat/completions", options), 403, "origin_refused", originOf(headers));
      }
    expect(upstream.requests).toHaveLength(0);
  });

  test.each(foreign)("at %s opens no WebSocket, whatever its credential", async (_where, headers) => {
    const lines = ["Host: a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"];
    const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    const chat = `/chat/stream?id=${await newChat(app, person)}`;
    for (const target of ["/v1/realtime?model=gpt-realtime", chat, `${chat}&token=${person.token}`])
      for (const [, present] of everyChannel) {
        const own = Object.entries({ ...headers, ...present(person) }).map(([name, value]) => `${name}: ${value}`);
        const answer = await ask(app.url, request([`GET ${target} HTTP/1.1`, ...lines, key, ...own]));
        expectRefusal(answer, 403, "origin_refused", originOf(headers));
      }
    const protocols = `Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.${person.token}`;
    const own = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
    const browser = request(["GET /v1/realtime?model=gpt-realtime HTTP/1.1", ...lines, key, protocols, ...own]);
    expectRefusal(await ask(app.url, browser), 403, "origin_refused", originOf(headers));
    expect(upstream.requests).toHaveLength(0);
  });

  test.each(foreign)("at %s may do with a bearer token what anyone with it may", async (_where, headers) => {
    const answer = await app.call("/user/key/create", {
      body: { label: "x" },
      headers: { ...headers, ...channels.bearer(person) },
    });
    expect(answer.status).toBe(200);
  });

  test.each(foreign)("at %s reads nothing with a cookie: the browser keeps the answer from it", async (_where, headers) => {
    for (const listed of reading) {
      const { path, rest } = placed(listed, (await SAMPLES[listed.name]?.(app, admin)) ?? {});
      const answer = await app.call(`${path}?${queryOf(rest)}`, { headers: { ...headers, ...channels.cookie(admin) } });
      expect(answer.status).toBe(200);
      expect(header(answer, "access-control-allow-origin")).toBe("*");
      expect(header(answer, "access-control-allow-credentials")).toBeNull();
    }
  });

  test.each(welcome)("is not %s", async (_where, headers) => {
    for (const [, present] of everyChannel) {
      const made = await app.call("/user/key/create", { body: { label: "x" }, headers: { ...headers, ...present(person) } });
      expect(made.status).toBe(200);
      const body = JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] });
      const type = { "content-type": "application/json" };
      const relayed = await app.call("/v1/chat/completions", { body, headers: { ...type, ...headers, ...present(person) } });
      expect(relayed.status).toBe(200);
    }
    const { status } = await app.call("/user/login", { body: { username: person.username, password: PASSWORD }, headers });
    expect(status).toBe(200);
  });
});

describe("the cookie", () => {
  const signIn = (headers: Record<string, string> = {}, at = app) =>
    at.call("/user/login", { body: { username: person.username, password: PASSWORD }, headers });
  const parts = (answer: { headers: Headers }) => answer.headers.getSetCookie().map((cookie) => cookie.split("; "));

  test("is out of a script's reach, for every path and this site, and without Secure on loopback alone", async () => {
    const answer = await signIn();
    const expected = [`sess=${answer.json.token}`, "Path=/", `Max-Age=${30 * 86_400}`, "HttpOnly", "SameSite=Lax"];
    expect(parts(answer)).toEqual([expected]);
    for (const headers of [{ "x-forwarded-for": "203.0.113.7" }, { "x-forwarded-for": "127.0.0.1" }])
      expect(parts(await signIn(headers))[0]).toContain("Secure");
  });

  test("is for a listed origin's page one that crosses sites, by itself", async () => {
    for (const headers of [{ origin: LISTED }, { origin: LISTED, "sec-fetch-site": "cross-site" }])
      expect(parts(await signIn(headers))[0]?.slice(3)).toEqual(["HttpOnly", "SameSite=None", "Secure", "Partitioned"]);
    expect(parts(await signIn({ origin: "https://chat.example.org", "sec-fetch-site": "same-origin" }))[0]?.slice(3)).toEqual([
      "HttpOnly",
      "SameSite=Lax",
    ]);
  });

  test("is forgotten with the attributes with which it was stored", async () => {
    for (const headers of [{}, { origin: LISTED }, { "x-forwarded-for": "203.0.113.7" }] as Record<string, string>[]) {
      const stored = await signIn(headers);
      const cookie = stored.headers.getSetCookie()[0]?.split(";")[0] ?? "";
      const answer = await app.call("/user/logout", { method: "POST", headers: { ...headers, cookie } });
      expect(answer.status).toBe(200);
      const [forgotten] = parts(answer);
      expect(forgotten?.slice(0, 3)).toEqual(["sess=", "Path=/", "Max-Age=0"]);
      expect(forgotten?.slice(3)).toEqual(parts(stored)[0]?.slice(3));
    }
  });

  test("is set by sign-in and signup alone", async () => {
    for (const { path, methods } of endpoints.filter(({ entry }) => !entry.access.open))
      expect((await app.call(path, { token: admin.token, method: methods[0] as string })).headers.getSetCookie()).toEqual([]);
    for (const answer of [await signIn({ cookie: "sess=x" }), await app.call("/user/login", { body: {} })])
      expect(answer.headers.getSetCookie()).toHaveLength(answer.status === 200 ? 1 : 0);
  });
});

describe("what an answer is to a browser", () => {
  test("the greeting is a page that may load nothing", async () => {
    const answer = await app.call("/");
    expect({ text: answer.text, type: header(answer, "content-type") }).toEqual({
      text: "Hello, World!",
      type: "text/html; charset=utf-8",
    });
    expect(header(answer, "content-security-policy")).toBe("default-src 'none'; frame-ancestors 'none'");
  });

  test("nothing that was sent comes back as a page", async () => {
    const script = "<script>alert(1)</script>";
    const hostile = [
      await app.call(`/${encodeURIComponent(script)}`),
      await app.call(`/user/read?id=${encodeURIComponent(script)}`, { token: person.token }),
      await app.call(`/user/read?${encodeURIComponent(script)}=1&${encodeURIComponent(script)}=2`, { token: person.token }),
      await app.call("/user/login", { body: { username: script, password: script } }),
      await app.call("/user/update", { token: person.token, body: { username: script } }),
      await app.call("/user/update", { token: person.token, body: { name: script } }),
    ];
    for (const answer of hostile) {
      expect(header(answer, "content-type")).toBe("application/json");
      expectOurs(answer);
    }
  });
});
