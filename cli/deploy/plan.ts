import { type Config, ConfigError, readConfig, settings } from "../../lib/config.ts";
import { NEEDS, type Need } from "../../lib/needs.ts";

type Env = Record<string, string | undefined>;
type Spec = { readonly name: string; readonly needs: readonly Need[] };

/** The one service that is deployed instead of the functions. */
export const ALL = "all";

/**
 * Settings that are secrets, each with its value under any of its names. They are kept in Secret Manager, and a function is
 * given only those that it uses.
 */
const SECRETS: Record<string, (config: Config, env: Env) => string | undefined> = {
  DB_ADDRESS: ({ store }) => ("url" in store ? store.url : undefined),
  API_KEY: ({ upstream }) => upstream.key,
  UPSTASH_REDIS_REST_TOKEN: ({ bus }) => (bus.kind === "upstash" ? bus.token : undefined),
  SIGNUP_CODE: ({ signup }) => signup.code,
  // Read by OpenTelemetry itself: most collectors take their key in a header.
  OTEL_EXPORTER_OTLP_HEADERS: ({ telemetry }, env) =>
    telemetry ? env.OTEL_EXPORTER_OTLP_HEADERS?.trim() || undefined : undefined,
};

/** Settings that only some functions are given, secret or not. Any other goes to all of them. */
const RECIPIENTS: Record<string, (spec: Spec) => boolean> = {
  API_KEY: needing("upstream"),
  API_URL: needing("upstream"),
  UPSTASH_REDIS_REST_URL: needing("bus"),
  UPSTASH_REDIS_REST_TOKEN: needing("bus"),
  SIGNUP: ({ name }) => name === "user" || name === ALL,
  SIGNUP_CODE: ({ name }) => name === "user" || name === ALL,
};

/** What means nothing in the cloud: the platform chooses the port, and Redis is spoken to over HTTP there. */
const LOCAL = new Set(["PORT", "ADDRESS", "REDIS_ADDRESS", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD"]);

export const secretNames: readonly string[] = Object.keys(SECRETS);
export const plainNames: readonly string[] = Object.keys(settings.shape).filter((it) => !(it in SECRETS) && !LOCAL.has(it));

/** What a function is deployed with: variables that anyone in the project may read, and the names of secrets. */
export type Plan = { name: string; variables: Record<string, string>; secrets: string[] };

/** Checks the settings as each function would at its start, and divides them. Throws `ConfigError`: every problem of any, once. */
export function planOf(names: readonly string[], env: Env, project: string): Plan[] {
  const problems = new Set<string>();
  const plans = names.map((name) => {
    const spec = specOf(name);
    const config = configOf(spec, env, problems);
    if (!config) return { name, variables: {}, secrets: [] };
    const secrets = secretNames.filter((it) => isFor(it, spec) && SECRETS[it]?.(config, env) !== undefined);
    const variables: Record<string, string> = {};
    for (const it of plainNames) {
      const value = isFor(it, spec) && plainValue(it, env, config);
      if (value) variables[it] = value;
    }
    const given = { ...variables, ...Object.fromEntries(secrets.map((it) => [it, SECRETS[it]?.(config, env)])) };
    // What is left out must not be missed: this is the environment in which the function will start.
    configOf(spec, given, problems);
    return { name, variables: { ...variables, ...placed(name), GOOGLE_CLOUD_PROJECT: project }, secrets };
  });
  if (problems.size > 0) throw new ConfigError([...problems]);
  return plans;
}

/** A secret's value, or `undefined` where it is not set. */
export function secretValue(name: string, env: Env): string | undefined {
  // Read as on one machine, where nothing need be set: what this function uses may be all that there is.
  return SECRETS[name]?.(readConfig({ ...env, K_SERVICE: undefined }), env);
}

function specOf(name: string): Spec {
  if (name === ALL) return { name, needs: [...new Set(Object.values(NEEDS).flat())] };
  if (!Object.hasOwn(NEEDS, name)) throw new ConfigError([`There is no function ${name}.`]);
  return { name, needs: NEEDS[name as keyof typeof NEEDS] };
}

function configOf(spec: Spec, env: Env, problems: Set<string>): Config | null {
  try {
    const config = readConfig({ ...env, K_SERVICE: spec.name }, spec.needs);
    const found = notInCloud(spec, config);
    for (const problem of found) problems.add(problem);
    return found.length === 0 ? config : null;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    for (const problem of error.problems) problems.add(problem);
    return null;
  }
}

/** What one machine could do, and a function's bundle has no driver for. */
function notInCloud({ needs }: Spec, { store, bus }: Config): string[] {
  const problems: string[] = [];
  if (store.kind === "postgres")
    problems.push(
      "DB_ADDRESS is not Neon's: functions use Postgres over HTTP. Set NEON_ENDPOINT if this one is behind such an address.",
    );
  if (needs.includes("bus") && bus.kind === "redis")
    problems.push("UPSTASH_REDIS_REST_URL is missing: functions use Redis over HTTP, and not REDIS_ADDRESS.");
  return problems;
}

function plainValue(name: string, env: Env, config: Config): string | undefined {
  // It has other names, too.
  return name === "API_URL" ? config.upstream.url : env[name]?.trim();
}

/** One service listens by itself; a function is listened for. */
const placed = (name: string): Record<string, string> => (name === ALL ? { ADDRESS: "0.0.0.0" } : {});
const isFor = (setting: string, spec: Spec) => RECIPIENTS[setting]?.(spec) ?? true;

function needing(need: Need) {
  return ({ needs }: Spec) => needs.includes(need);
}
