import type { IncomingHttpHeaders } from "node:http";
import { ApiError } from "./error.ts";

const EXPOSED = "x-proxy-gpt-request-id, x-request-id, retry-after, link, openai-processing-ms";
const PREFLIGHT_SECONDS = "600";

/** A listed origin may send credentials; any other may call with a bearer token and nothing ambient. */
export function corsHeaders(origin: string | undefined, allowed: ReadonlySet<string>): Record<string, string> {
  const listed = origin !== undefined && allowed.has(origin);
  return {
    "access-control-allow-origin": listed ? origin : "*",
    ...(listed && { "access-control-allow-credentials": "true" }),
    "access-control-expose-headers": EXPOSED,
    ...(allowed.size > 0 && { vary: "origin" }),
  };
}

const withoutOrigin = new WeakMap<ReadonlySet<string>, readonly string[]>();
/** The same as names and values in turn; what most requests get, which say no origin, is made once. */
export function corsPairs(origin: string | undefined, allowed: ReadonlySet<string>): readonly string[] {
  if (origin !== undefined) return Object.entries(corsHeaders(origin, allowed)).flat();
  const known = withoutOrigin.get(allowed) ?? Object.entries(corsHeaders(undefined, allowed)).flat();
  withoutOrigin.set(allowed, known);
  return known;
}

/** The answer to a preflight of a route that takes `methods`. */
export function preflightHeaders(headers: IncomingHttpHeaders, methods: readonly string[]): Record<string, string> {
  const asked = headers["access-control-request-headers"];
  return {
    "access-control-allow-methods": methods.join(", "),
    ...(asked && { "access-control-allow-headers": asked }),
    "access-control-max-age": PREFLIGHT_SECONDS,
  };
}

export const isPreflight = (method: string | undefined, headers: IncomingHttpHeaders): boolean =>
  method === "OPTIONS" && headers.origin !== undefined && headers["access-control-request-method"] !== undefined;

/**
 * Refuses (`origin_refused`) what a foreign page may have caused. Browsers say where a request comes from, in
 * Sec-Fetch-Site, in Origin, or in both; a client that sends neither is not a browser.
 */
export function refuseForeignPage(headers: IncomingHttpHeaders, allowed: ReadonlySet<string>): void {
  const { origin, "sec-fetch-site": site } = headers;
  if (origin === undefined && site === undefined) return;
  if (origin === "null") throw new ApiError("origin_refused");
  if (site === "same-origin" || site === "none") return;
  if (origin === undefined || !allowed.has(origin)) throw new ApiError("origin_refused");
}

/** What every answer of ours carries: it is data, for nobody's cache, and never a page. */
export const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
};
