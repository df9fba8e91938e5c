import { describe, expect, test } from "vitest";
import * as z from "zod/mini";
import { ConfigError, readConfig, settings } from "../lib/config.ts";

const KEY = "sk-planted-0123456789abcdef";
const cloud = { K_SERVICE: "user", DB_ADDRESS: "postgresql://user:planted-pass@ep-one.neon.tech/db" };

/** The lines that a start with these settings ends with. */
function problemsOf(env: Record<string, string | undefined>, needs?: Parameters<typeof readConfig>[1]): readonly string[] {
  try {
    readConfig(env, needs);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    expect(error.message).toBe(error.problems.join("\n"));
    return error.problems;
  }
  return [];
}

describe("on one machine", () => {
  test("nothing needs to be set", () => {
    const config = readConfig({});
    expect(config).toMatchObject({
      cloud: false,
      store: { kind: "sqlite", path: "proxy.db" },
      upstream: { key: undefined, url: undefined, timeoutMs: 600_000 },
      listen: { port: 8080, address: "127.0.0.1" },
      signup: { mode: "open", code: undefined, firstIsAdmin: true },
      session: { slidingMs: 7 * 86_400_000, absoluteMs: 30 * 86_400_000 },
      proxy: { policy: "open", deny: [] },
      audit: { bodyBytes: 16_384, retentionMs: 0 },
      chat: { imageModel: "gpt-4o-mini", moderate: "off", expireMs: 0 },
      trustHops: 0,
      throttle: { signinPerMinute: 20, signupPerHour: 20, signinFailures: 5 },
    });
    expect(config.allowedOrigins.size).toBe(0);
  });

  test("an empty setting is one that is not set", () => {
    const empty = Object.fromEntries(Object.keys(settings.shape).map((name) => [name, " "]));
    expect(readConfig({ ...empty, K_SERVICE: "" })).toEqual(readConfig({}));
  });

  test("every setting is told in words", () => {
    for (const [name, schema] of Object.entries(settings.shape))
      expect(z.globalRegistry.get(schema)?.description, name).toMatch(/^.{10,}\.$/s);
  });
});

describe("names", () => {
  const key = (env: Record<string, string>) => readConfig(env).upstream.key;
  test.each(["API_KEY", "OPENAI_API_KEY", "GPT_API_KEY"])("%s is the key", (name) =>
    expect(key({ [name]: ` ${KEY} ` })).toBe(KEY),
  );

  test("the first name wins, and an empty one does not", () => {
    expect(key({ GPT_API_KEY: "third", OPENAI_API_KEY: "second", API_KEY: "first" })).toBe("first");
    expect(key({ GPT_API_KEY: "third", OPENAI_API_KEY: "second", API_KEY: " " })).toBe("second");
  });

  test.each(["API_URL", "OPENAI_API_URL"])("%s is the upstream", (name) => {
    expect(readConfig({ [name]: "http://localhost:9090" }).upstream.url).toBe("http://localhost:9090");
  });

  test.each(["DB_ADDRESS", "DATABASE_URL"])("%s is the store", (name) => {
    expect(readConfig({ [name]: "file:other.db" }).store).toEqual({ kind: "sqlite", path: "other.db" });
  });
});

describe("the store", () => {
  const url = "postgresql://user:secret@db.example.com:5432/proxy";
  test.each([
    ["file:proxy.db", { kind: "sqlite", path: "proxy.db" }],
    ["file:/var/lib/proxy.db", { kind: "sqlite", path: "/var/lib/proxy.db" }],
    ["file:///var/lib/proxy.db", { kind: "sqlite", path: "/var/lib/proxy.db" }],
    [url, { kind: "postgres", url }],
    ["postgres://localhost/proxy", { kind: "postgres", url: "postgres://localhost/proxy" }],
    ["postgresql://u:p@ep-one.eu.neon.tech/db", { kind: "neon", url: "postgresql://u:p@ep-one.eu.neon.tech/db" }],
    ["postgresql://u:p@neon.tech.evil.example/db", { kind: "postgres" }],
  ])("%s is told by its address", (address, store) => expect(readConfig({ DB_ADDRESS: address }).store).toMatchObject(store));

  test("is used over HTTP wherever an endpoint is named", () => {
    const endpoint = "http://localhost:4444/sql";
    expect(readConfig({ DB_ADDRESS: url, NEON_ENDPOINT: endpoint }).store).toEqual({ kind: "neon", url, endpoint });
  });
});

describe("in the cloud", () => {
  test("signup is closed, nobody becomes an admin by being first, and one proxy is trusted", () => {
    expect(readConfig(cloud)).toMatchObject({
      cloud: true,
      signup: { mode: "closed", firstIsAdmin: false },
      trustHops: 1,
      store: { kind: "neon" },
    });
    expect(readConfig({ ...cloud, SIGNUP: "open", TRUST_HOPS: "0" })).toMatchObject({
      signup: { mode: "open", firstIsAdmin: false },
      trustHops: 0,
    });
  });

  test.each([undefined, "", "file:proxy.db", "file:/tmp/proxy.db"])("the store may not be the file %j", (address) => {
    const problems = problemsOf({ K_SERVICE: "user", DB_ADDRESS: address });
    expect(problems).toEqual([expect.stringMatching(/^DB_ADDRESS is missing or a file/)]);
  });

  test("a key must be there for the functions that use it, and for no other", () => {
    expect(problemsOf(cloud)).toEqual([]);
    expect(problemsOf(cloud, ["upstream"])).toEqual(["API_KEY is missing."]);
    expect(problemsOf({ ...cloud, API_KEY: " " }, ["upstream"])).toEqual(["API_KEY is missing."]);
    expect(problemsOf({ ...cloud, GPT_API_KEY: KEY }, ["upstream"])).toEqual([]);
    expect(problemsOf({}, ["upstream"])).toEqual([]);
  });

  test("all that is missing is told at once", () => {
    expect(problemsOf({ K_SERVICE: "proxy", SIGNUP: "code" }, ["upstream"])).toHaveLength(3);
  });
});

describe("a wrong setting", () => {
  const wrong: [name: string, value: string, more?: Record<string, string>][] = [
    ["API_KEY", "sk-planted with a space"],
    ["API_KEY", "sk-planted\u00e9"],
    ["API_KEY", "sk-planted\r\nX-Evil: 1"],
    ["OPENAI_API_KEY", "sk-planted with a space"],
    ["GPT_API_KEY", "sk-planted with a space"],
    ["API_URL", "planted.example.com"],
    ["API_URL", "ftp://planted.example.com"],
    ["API_URL", "javascript:planted"],
    ["OPENAI_API_URL", "planted"],
    ["DB_ADDRESS", "mysql://user:planted@host/db"],
    ["DB_ADDRESS", "planted.db"],
    ["DB_ADDRESS", "file:"],
    ["DB_ADDRESS", "postgresql://user:planted@ho st/db"],
    ["DATABASE_URL", "mysql://user:planted@host/db"],
    ["NEON_ENDPOINT", "planted"],
    ["PORT", "planted"],
    ["PORT", "65536"],
    ["PORT", "-1"],
    ["PORT", "80.5"],
    ["PORT", "0x50"],
    ["PORT", "9".repeat(400)],
    ["SIGNUP", "planted"],
    ["SIGNUP", "OPEN"],
    ["SIGNUP", "code"],
    ["SIGNUP_CODE", "planted", { SIGNUP: "code" }],
    ["SESSION_DAYS", "0"],
    ["SESSION_DAYS", "366"],
    ["SESSION_DAYS", "a week"],
    ["ALLOWED_ORIGINS", "*"],
    ["ALLOWED_ORIGINS", "null"],
    ["ALLOWED_ORIGINS", "https://ok.example, planted.example"],
    ["ALLOWED_ORIGINS", "https://planted.example/"],
    ["ALLOWED_ORIGINS", "https://planted.example/path"],
    ["ALLOWED_ORIGINS", "https://PLANTED.example"],
    ["ALLOWED_ORIGINS", "https://planted.example:443"],
    ["ALLOWED_ORIGINS", "https://*.planted.example"],
    ["ALLOWED_ORIGINS", "file:///planted"],
    ["PROXY_POLICY", "planted"],
    ["PROXY_DENY", "/v1/files, planted"],
    ["PROXY_DENY", "v1/planted"],
    ["PROXY_DENY", "/v10/planted"],
    ["EXPIRE_HOURS", "-1"],
    ["EXPIRE_HOURS", "876001"],
    ["EXPIRE_HOURS", "0.5"],
    ["EXPIRE_HOURS", "24h"],
    ["EXPIRE_HOURS", "planted"],
    ["EXPIRE_HOURS", "9".repeat(400)],
    ["MODERATE", "planted"],
    ["MODERATE", "BLOCK"],
    ["MODERATE", "true"],
    ["MODERATE", "flag,block"],
    ["IMAGE_MODEL", "planted with a space"],
    ["IMAGE_MODEL", "planted\u00e9"],
    ["IMAGE_MODEL", "planted\r\nX-Evil: 1"],
    ["IMAGE_MODEL", "m".repeat(129)],
    ["LOG_BODIES", "planted"],
    ["LOG_BODIES", "true"],
    ["LOG_BODY_BYTES", "1048577"],
    ["LOG_BODY_BYTES", "16K"],
    ["RETENTION_DAYS", "-1"],
    ["TRUST_HOPS", "11"],
    ["TRUST_HOPS", "planted"],
    ["UPSTREAM_TIMEOUT", "0"],
    ["UPSTREAM_TIMEOUT", "3601"],
    ["SIGNIN_PER_MINUTE", "0"],
    ["SIGNUP_PER_HOUR", "0"],
    ["SIGNIN_FAILURES", "0"],
  ];
  test.each(wrong)("%s=%j stops the start with one line that names it", (name, value, more = {}) => {
    const problems = problemsOf({ ...more, [name]: value });
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(/^[^\r\n]+\.$/);
    expect(problems[0]).toContain(name);
    expect(problems[0]).not.toContain("planted");
    // What is wrong is said, and the value is not: an operator has it, and a log should not.
    if (value.length > 2 && !/^(code|OPEN|null|true|file:)$/.test(value)) expect(problems[0]).not.toContain(value);
  });

  test("does not hide another", () => {
    const problems = problemsOf({ PORT: "planted", SIGNUP: "planted", API_URL: "planted", TRUST_HOPS: "planted" });
    expect(problems.map((line) => line.split(" ")[0]).sort()).toEqual(["API_URL", "PORT", "SIGNUP", "TRUST_HOPS"]);
  });

  test("is no reason to refuse what is not ours", () => {
    expect(problemsOf({ PATH: "/bin", HOME: "\0", constructor: "x", __proto__: "x", toString: "x" })).toEqual([]);
  });
});

test("lists are read with their spaces and empty places", () => {
  const { allowedOrigins, proxy } = readConfig({
    ALLOWED_ORIGINS: " https://a.example , ,http://localhost:5173,",
    PROXY_DENY: "/v1/files,, /V1/Fine_Tuning/ ",
  });
  expect([...allowedOrigins]).toEqual(["https://a.example", "http://localhost:5173"]);
  expect(proxy.deny).toEqual(["/v1/files", "/V1/Fine_Tuning/"]);
});

test("bodies are not kept when they are switched off, however large they may be", () => {
  expect(readConfig({ LOG_BODIES: "off", LOG_BODY_BYTES: "100" }).audit.bodyBytes).toBe(0);
  expect(readConfig({ LOG_BODY_BYTES: "100" }).audit.bodyBytes).toBe(100);
});

test("messages expire after as many hours as are said, and never where that is 0", () => {
  const expireMs = (EXPIRE_HOURS: string) => readConfig({ EXPIRE_HOURS }).chat.expireMs;
  expect(["0", "00", "1", "24", "876000"].map(expireMs)).toEqual([0, 0, 3_600_000, 86_400_000, 3_153_600_000_000]);
});

test.each(["off", "flag", "block"])("MODERATE is %s where it says so, and images go to the model that is named", (moderate) => {
  expect(readConfig({ MODERATE: moderate, IMAGE_MODEL: " gpt-5 " }).chat).toMatchObject({ moderate, imageModel: "gpt-5" });
});
