import { expect, test } from "vitest";
import { plainNames, planOf, secretNames, secretValue } from "../../cli/deploy/plan.ts";
import { policyFor } from "../../cli/deploy/policy.ts";
import { functions } from "../../functions/all.ts";
import { ConfigError } from "../../lib/config.ts";

const env = {
  GPT_API_KEY: "sk-planted",
  OPENAI_API_URL: "https://upstream.example.com",
  DATABASE_URL: "postgresql://user:planted@ep-one.neon.tech/db",
  UPSTASH_REDIS_REST_URL: "https://one.upstash.io",
  UPSTASH_REDIS_REST_TOKEN: "planted-token",
  SIGNUP: "code",
  SIGNUP_CODE: "planted-code",
  OTEL_EXPORTER_OTLP_ENDPOINT: "https://collector.example.com",
  OTEL_EXPORTER_OTLP_HEADERS: "x-api-key=planted",
  MESSAGES_LENGTH: "5",
  PORT: "1234",
  ADDRESS: "127.0.0.1",
  REDIS_ADDRESS: "redis://:planted@localhost",
  HOME: "/root",
};
const names = functions.map(({ name }) => name);
const problemsOf = (settings: Record<string, string | undefined>, ...chosen: string[]) => {
  try {
    planOf(chosen, settings, "p");
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
};

test("a function is given the secrets that it uses, and no other", () => {
  const given = planOf(names, env, "demo-project").map(({ name, secrets }) => [name, secrets]);
  const [DB, KEY, TOKEN, CODE, HEADERS] = secretNames;
  expect(secretNames).toEqual([
    ...["DB_ADDRESS", "API_KEY", "UPSTASH_REDIS_REST_TOKEN", "SIGNUP_CODE", "OTEL_EXPORTER_OTLP_HEADERS"],
  ]);
  expect(Object.fromEntries(given)).toEqual({
    user: [DB, CODE, HEADERS],
    group: [DB, TOKEN, HEADERS],
    chat: [DB, KEY, TOKEN, HEADERS],
    proxy: [DB, KEY, HEADERS],
    system: [DB, HEADERS],
    mod: [DB, KEY, HEADERS],
    img: [DB, KEY, TOKEN, HEADERS],
  });
  expect(planOf(["all"], env, "demo-project")[0]?.secrets).toEqual(secretNames);
});

test("other settings that are set go as variables to whom they concern, by their own names", () => {
  const [user, proxy, all] = planOf(["user", "proxy", "all"], env, "demo-project").map(({ variables }) => variables);
  const everyone = { MESSAGES_LENGTH: "5", OTEL_EXPORTER_OTLP_ENDPOINT: "https://collector.example.com" };
  const [SIGNUP, API_URL, GOOGLE_CLOUD_PROJECT] = ["code", "https://upstream.example.com", "demo-project"];
  expect(user).toEqual({ ...everyone, GOOGLE_CLOUD_PROJECT, SIGNUP });
  expect(proxy).toEqual({ ...everyone, GOOGLE_CLOUD_PROJECT, API_URL });
  const { UPSTASH_REDIS_REST_URL } = env;
  expect(all).toEqual({ ...everyone, GOOGLE_CLOUD_PROJECT, SIGNUP, API_URL, UPSTASH_REDIS_REST_URL, ADDRESS: "0.0.0.0" });
  expect(JSON.stringify(planOf(names, env, "p"))).not.toContain("planted");
});

test("no setting that sounds like a secret is a variable", () => {
  expect(plainNames.filter((name) => /KEY|TOKEN$|PASS|SECRET|CODE$|HEADERS|DB_/.test(name))).toEqual([]);
});

test("secrets are found under any of their names", () => {
  const values = secretNames.map((name) => secretValue(name, env));
  expect(values).toEqual([env.DATABASE_URL, "sk-planted", "planted-token", "planted-code", "x-api-key=planted"]);
  expect(secretValue("SIGNUP_CODE", { ...env, SIGNUP: "open", SIGNUP_CODE: "" })).toBeUndefined();
  expect(secretValue("DB_ADDRESS", { DATABASE_URL: env.DATABASE_URL })).toBe(env.DATABASE_URL);
  expect(secretValue("PATH", env)).toBeUndefined();
});

test("what is missing is missed only by those who need it, and told once", () => {
  const { GPT_API_KEY: _, UPSTASH_REDIS_REST_URL: __, REDIS_ADDRESS: ___, ...rest } = env;
  expect(problemsOf(rest, "user", "system")).toEqual([]);
  expect(problemsOf(rest, "mod", "proxy")).toEqual(["API_KEY is missing."]);
  expect(problemsOf(rest, ...names)).toEqual([
    "UPSTASH_REDIS_REST_URL is missing: in the cloud no instance would hear of another's replies.",
    "API_KEY is missing.",
  ]);
  expect(problemsOf({ ...env, DATABASE_URL: "postgresql://planted@host/db" }, ...names)).toEqual([
    expect.stringMatching(/^DB_ADDRESS is not Neon's/),
  ]);
  expect(problemsOf(env, "nobody")).toEqual(["There is no function nobody."]);
});

test("a secret's policy names those of ours that may read it, and leaves others alone", () => {
  const role = "roles/secretmanager.secretAccessor";
  const other = { role: "roles/viewer", members: ["serviceAccount:a"] };
  const conditional = { role, members: ["user:x"], condition: { title: "until Friday" } };
  expect(policyFor({ etag: "A" }, ["a", "b"], ["a"])).toEqual({ etag: "A", bindings: [{ role, members: ["serviceAccount:a"] }] });
  const policy = { etag: "A", bindings: [other, { role, members: ["serviceAccount:b", "user:x"] }, conditional] };
  expect(policyFor(policy, ["a", "b"], ["a"])).toEqual({
    etag: "A",
    bindings: [other, conditional, { role, members: ["user:x", "serviceAccount:a"] }],
  });
  expect(policyFor(policy, ["b"], ["b"])).toBeNull();
  expect(policyFor(policy, ["c"], [])).toBeNull();
  expect(policyFor({ bindings: [{ role, members: ["serviceAccount:a"] }] }, ["a"], [])).toEqual({ bindings: [] });
});
