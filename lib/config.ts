import * as z from "zod/mini";
import type { BusAddress } from "./bus/bus.ts";
import type { Need } from "./needs.ts";
import type { StoreAddress } from "./store/open.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** zod/mini, because it is loaded with every start of a function, of which the rest waits until somebody asks for it. */
const setting = <T extends z.ZodMiniType>(schema: T, description: string): T => schema.check(z.describe(description));
const text = (pattern: RegExp, refusal: string) => z.string().check(z.regex(pattern, refusal));
const wholeWithin = (min: number, max: number) =>
  z.pipe(
    z.pipe(text(/^\d{1,15}$/, "is not a whole number"), z.transform(Number)),
    z.number().check(z.minimum(min, `is below ${min}`), z.maximum(max, `is above ${max}`)),
  );
const whole = (fallback: number, min = 0, max = 2 ** 31 - 1) => z.prefault(wholeWithin(min, max), String(fallback));
const oneOf = <const T extends readonly [string, ...string[]]>(...values: T) =>
  z.enum(values, { error: `is not one of ${values.join(", ")}` });
const list = z.prefault(z.pipe(z.string(), z.transform(itemsOf)), "");
const modelName = text(/^[\x21-\x7e]{1,128}$/, "is not the name of a model");
const projectId = text(/^[a-z0-9.:-]{1,100}$/, "is not the id of a project");
const serviceName = z.string().check(z.maxLength(128, "is longer than 128 characters"));
const httpUrl = z.string().check(z.refine(isHttpUrl, "is not an http or https address"));

/** Every setting, by its name in the environment, as `.env.example` shows them. */
export const settings = z.object({
  API_KEY: setting(
    z.optional(text(/^[\x21-\x7e]+$/, "holds a character that no key has")),
    "The shared OpenAI (or Azure) key. Also read from OPENAI_API_KEY and GPT_API_KEY. Absent on one machine: a demo model answers.",
  ),
  API_URL: setting(
    z.optional(httpUrl),
    "Another OpenAI-compatible upstream, or an Azure resource, deployment or operation address. Also OPENAI_API_URL.",
  ),
  DB_ADDRESS: setting(
    z.optional(z.string()),
    "file:PATH for SQLite, or postgresql://user:password@host/database; a *.neon.tech host is used over HTTP. Also DATABASE_URL. Absent: the SQLite file proxy.db.",
  ),
  NEON_ENDPOINT: setting(z.optional(httpUrl), "The address of Neon's SQL endpoint, where it does not follow from the host."),
  REDIS_ADDRESS: setting(
    z.optional(z.string()),
    "redis://…, where several processes share live replies. Also REDIS_HOST, REDIS_PORT and REDIS_PASSWORD. Absent: in this process.",
  ),
  REDIS_HOST: setting(z.optional(z.string()), "The host of Redis, instead of REDIS_ADDRESS."),
  REDIS_PORT: setting(z.optional(wholeWithin(1, 65_535)), "The port of REDIS_HOST; 6379 if absent."),
  REDIS_PASSWORD: setting(z.optional(z.string()), "The password of REDIS_HOST."),
  UPSTASH_REDIS_REST_URL: setting(z.optional(httpUrl), "Redis over HTTP, as Upstash serves it: what functions in the cloud use."),
  UPSTASH_REDIS_REST_TOKEN: setting(z.optional(z.string()), "The token of UPSTASH_REDIS_REST_URL."),
  PORT: setting(whole(8080, 0, 65_535), "The port to listen on."),
  ADDRESS: setting(
    z.optional(z.string()),
    "The address to listen on. Default: 127.0.0.1 on one machine; 0.0.0.0, which is every interface, in the cloud.",
  ),
  SIGNUP: setting(
    z.optional(oneOf("open", "code", "closed")),
    "Who may sign up: open, code (with SIGNUP_CODE) or closed. Default: open on one machine, where the first user is an admin; closed in the cloud.",
  ),
  SIGNUP_CODE: setting(
    z.optional(z.string().check(z.minLength(8, "is shorter than 8 characters"))),
    "What new people must know when SIGNUP is code.",
  ),
  SESSION_DAYS: setting(whole(7, 1, 365), "Days that a sign-in lasts without use; 30 days in all, or as many as this if more."),
  ALLOWED_ORIGINS: setting(
    list,
    "Origins of browser applications that may use cookies here, separated by commas, such as https://app.example.com.",
  ),
  PROXY_POLICY: setting(
    z.prefault(oneOf("open", "strict"), "open"),
    "strict: /v1 serves stateless inference only. open: all of /v1 but what mints credentials or manages the organization.",
  ),
  PROXY_DENY: setting(list, "More paths that /v1 refuses, separated by commas, such as /v1/files,/v1/fine_tuning."),
  DEFAULT_MODEL: setting(z.prefault(modelName, "gpt-4o-mini"), "The model of chats that name none."),
  MODEL_ALIASES: setting(
    z.prefault(list, "gpt-3=gpt-3.5-turbo"),
    "Names that chats may use for models, such as fast=gpt-4o-mini,smart=gpt-4o. Any other name goes to the upstream as it is.",
  ),
  MESSAGES_LENGTH: setting(whole(10, 0, 50), "Earlier prompts, with their replies, that a prompt is sent with."),
  MAX_TOKENS: setting(
    whole(16_000, 1),
    "About how many tokens a prompt and what is sent with it may have; the oldest messages are left out first.",
  ),
  EXPIRE_HOURS: setting(
    whole(0, 0, 876_000),
    "Hours after which messages of chats are forgotten: they are in no answer and no context, and are deleted. 0 keeps them for ever.",
  ),
  IMAGE_MODEL: setting(z.prefault(modelName, "gpt-4o-mini"), "The model that is asked about images."),
  MODERATE: setting(
    z.prefault(oneOf("off", "flag", "block"), "off"),
    "Whether prompts and images go to the upstream's moderation: flag marks them, block refuses what it flags.",
  ),
  LOG_BODIES: setting(z.prefault(oneOf("on", "off"), "on"), "Whether the audit log keeps request and response bodies."),
  LOG_BODY_BYTES: setting(whole(16_384, 0, 1_048_576), "Bytes of each body that the audit log keeps."),
  RETENTION_DAYS: setting(whole(0, 0, 36_500), "Days that the audit log is kept by `admin prune`; 0 keeps it for ever."),
  TRUST_HOPS: setting(
    z.optional(wholeWithin(0, 10)),
    "Proxies in front that append to X-Forwarded-For. Default: 0 on one machine, 1 in the cloud.",
  ),
  GOOGLE_CLOUD_PROJECT: setting(
    z.optional(projectId),
    "The id of the Google Cloud project, by which lines of the log in the cloud belong to their traces.",
  ),
  OTEL_EXPORTER_OTLP_ENDPOINT: setting(
    z.optional(httpUrl),
    "The base address of an OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318. Absent: no spans and metrics. Its headers stand in OTEL_EXPORTER_OTLP_HEADERS.",
  ),
  OTEL_SERVICE_NAME: setting(
    z.optional(serviceName),
    "What this is called in spans and metrics. Default: proxy-gpt; in the cloud the function's name.",
  ),
  UPSTREAM_TIMEOUT: setting(whole(600, 1, 3_600), "Seconds to wait for the upstream's first byte."),
  SIGNIN_PER_MINUTE: setting(whole(20, 1), "Sign-in tries a minute and address."),
  SIGNUP_PER_HOUR: setting(whole(20, 1), "Signups an hour and address."),
  SIGNIN_FAILURES: setting(
    whole(5, 1),
    "Wrong passwords in 15 minutes after which a user's sign-in is delayed, longer each time, up to 15 minutes.",
  ),
});

/** Other names of the same setting, in the order in which they are looked at. */
const ALIASES: Partial<Record<keyof z.output<typeof settings>, readonly string[]>> = {
  API_KEY: ["OPENAI_API_KEY", "GPT_API_KEY"],
  API_URL: ["OPENAI_API_URL"],
  DB_ADDRESS: ["DATABASE_URL"],
};

export type Config = ReturnType<typeof readConfig>;

/** A start that cannot succeed: one line a problem, without the value of any setting. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(problems.join("\n"));
    this.problems = problems;
  }
}

/** Parses the environment. In the cloud (Google sets K_SERVICE) nothing falls back to one machine's defaults. Throws `ConfigError`. */
export function readConfig(env: Record<string, string | undefined>, needs: readonly Need[] = []) {
  const values: Record<string, string> = {};
  /** The name by which each setting was given. */
  const names: Record<string, string> = {};
  for (const key of Object.keys(settings.shape)) {
    const name = [key, ...(ALIASES[key as keyof typeof ALIASES] ?? [])].find((it) => env[it]?.trim());
    if (name) values[key] = env[name]?.trim() ?? "";
    names[key] = name ?? key;
  }
  const parsed = settings.safeParse(values);
  if (!parsed.success)
    throw new ConfigError(parsed.error.issues.map(({ path: [key = ""], message }) => `${names[String(key)]} ${message}.`));

  const s = parsed.data;
  const cloud = Boolean(env.K_SERVICE);
  const problems: string[] = [];
  const store = storeAddress(s.DB_ADDRESS ?? "file:proxy.db", s.NEON_ENDPOINT);
  // A function that tells others nothing is not given what it takes.
  const bus: BusAddress | null = cloud && !needs.includes("bus") ? { kind: "memory" } : busAddress(s);
  const aliases = modelAliases(s.MODEL_ALIASES);
  const signup = s.SIGNUP ?? (cloud ? "closed" : "open");
  const origins = s.ALLOWED_ORIGINS.filter((origin) => !isOrigin(origin));
  if (!store) problems.push(`${names.DB_ADDRESS} is neither file:PATH nor postgresql://….`);
  if (cloud && store?.kind === "sqlite")
    problems.push(`${names.DB_ADDRESS} is missing or a file: in the cloud each instance would have a store of its own.`);
  if (cloud && needs.includes("upstream") && !s.API_KEY) problems.push("API_KEY is missing.");
  if (!bus) problems.push(`${names.REDIS_ADDRESS} is not redis://… or rediss://….`);
  if (s.UPSTASH_REDIS_REST_URL && !s.UPSTASH_REDIS_REST_TOKEN) problems.push("UPSTASH_REDIS_REST_TOKEN is missing.");
  if (cloud && needs.includes("bus") && bus?.kind === "memory")
    problems.push("UPSTASH_REDIS_REST_URL is missing: in the cloud no instance would hear of another's replies.");
  if (!aliases) problems.push("MODEL_ALIASES holds something that is not name=model.");
  if (signup === "code" && !s.SIGNUP_CODE) problems.push("SIGNUP_CODE is missing, and SIGNUP is code.");
  if (origins.length > 0) problems.push("ALLOWED_ORIGINS holds something that is not an origin such as https://app.example.com.");
  if (s.PROXY_DENY.some((path) => !/^\/v1(\/|$)/i.test(path)))
    problems.push("PROXY_DENY holds something that is not a path under /v1, such as /v1/files.");
  if (!store || !bus || !aliases || problems.length > 0) throw new ConfigError(problems);

  return {
    cloud,
    store,
    bus,
    chat: {
      defaultModel: s.DEFAULT_MODEL,
      /** What the upstream calls a model that chats call otherwise. */
      aliases,
      contextPairs: s.MESSAGES_LENGTH,
      contextTokens: s.MAX_TOKENS,
      imageModel: s.IMAGE_MODEL,
      moderate: s.MODERATE,
      /** 0: messages never expire. */
      expireMs: s.EXPIRE_HOURS * HOUR_MS,
    },
    upstream: { key: s.API_KEY, url: s.API_URL, timeoutMs: s.UPSTREAM_TIMEOUT * 1000 },
    listen: { port: s.PORT, address: s.ADDRESS ?? (cloud ? "0.0.0.0" : "127.0.0.1") },
    signup: { mode: signup, code: s.SIGNUP_CODE, firstIsAdmin: !cloud },
    session: { slidingMs: s.SESSION_DAYS * DAY_MS, absoluteMs: Math.max(30, s.SESSION_DAYS) * DAY_MS },
    allowedOrigins: new Set(s.ALLOWED_ORIGINS),
    proxy: { policy: s.PROXY_POLICY, deny: s.PROXY_DENY },
    audit: { bodyBytes: s.LOG_BODIES === "on" ? s.LOG_BODY_BYTES : 0, retentionMs: s.RETENTION_DAYS * DAY_MS },
    project: s.GOOGLE_CLOUD_PROJECT,
    /** Null: nothing of OpenTelemetry is loaded. */
    telemetry: s.OTEL_EXPORTER_OTLP_ENDPOINT
      ? { endpoint: s.OTEL_EXPORTER_OTLP_ENDPOINT, service: s.OTEL_SERVICE_NAME ?? (env.K_SERVICE || "proxy-gpt") }
      : null,
    trustHops: s.TRUST_HOPS ?? (cloud ? 1 : 0),
    throttle: { signinPerMinute: s.SIGNIN_PER_MINUTE, signupPerHour: s.SIGNUP_PER_HOUR, signinFailures: s.SIGNIN_FAILURES },
  };
}

function storeAddress(address: string, endpoint: string | undefined): StoreAddress | null {
  if (address.startsWith("file:")) {
    const path = address.slice("file:".length).replace(/^\/\/(?=\/)/, "");
    return path === "" ? null : { kind: "sqlite", path };
  }
  if (!/^postgres(ql)?:\/\//.test(address) || !URL.canParse(address)) return null;
  const remote = endpoint !== undefined || new URL(address).hostname.endsWith(".neon.tech");
  return remote ? { kind: "neon", url: address, endpoint } : { kind: "postgres", url: address };
}

function busAddress(s: z.output<typeof settings>): BusAddress | null {
  const { UPSTASH_REDIS_REST_URL: url, UPSTASH_REDIS_REST_TOKEN: token = "", REDIS_HOST: host, REDIS_ADDRESS: address } = s;
  if (url) return { kind: "upstash", url, token };
  if (!address && !host) return { kind: "memory" };
  const password = s.REDIS_PASSWORD ? `:${encodeURIComponent(s.REDIS_PASSWORD)}@` : "";
  const redis = address ?? `redis://${password}${host}:${s.REDIS_PORT ?? 6379}`;
  return /^rediss?:\/\//.test(redis) && URL.canParse(redis) ? { kind: "redis", url: redis } : null;
}

function modelAliases(pairs: readonly string[]): Map<string, string> | null {
  const aliases = pairs.map((pair) => pair.split("=").map((part) => part.trim()) as [string, string]);
  return aliases.every((it) => it.length === 2 && it.every(Boolean)) ? new Map(aliases) : null;
}

function itemsOf(text: string): string[] {
  const items = text.split(",").map((item) => item.trim());
  return items.filter(Boolean);
}

function isHttpUrl(text: string): boolean {
  return URL.canParse(text) && ["http:", "https:"].includes(new URL(text).protocol);
}

function isOrigin(text: string): boolean {
  return isHttpUrl(text) && new URL(text).origin === text && !text.includes("*");
}
