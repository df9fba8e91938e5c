/** Belongs to one connection, not to the message (RFC 9110, 7.6.1). */
const HOP_BY_HOP = [
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];
/** Ours, not the upstream's: credentials, addresses, and the account that the shared key belongs to. */
const NOT_SENT = new Set([
  ...HOP_BY_HOP,
  "authorization",
  "api-key",
  "x-api-key",
  "cookie",
  "host",
  "expect",
  "http2-settings",
  "forwarded",
  "via",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-port",
  "x-forwarded-prefix",
  "x-forwarded-proto",
  "x-forwarded-server",
  "x-forwarded-ssl",
  "x-real-ip",
  "x-client-ip",
  "cf-connecting-ip",
  "true-client-ip",
  "x-cloud-trace-context",
  "x-serverless-authorization",
  "x-goog-iap-jwt-assertion",
  "x-appengine-user-ip",
  "x-appengine-country",
  "x-appengine-region",
  "x-appengine-city",
  "x-appengine-citylatlong",
  "openai-organization",
  "openai-project",
]);
/** What would bind our users' browsers to the upstream's wishes. */
const NOT_RETURNED = new Set([...HOP_BY_HOP, "set-cookie", "alt-svc", "strict-transport-security", "x-proxy-gpt-request-id"]);

/** The headers that go upstream, names and values in turn, as they were received. */
export function requestHeaders(rawHeaders: readonly string[], connection: string | undefined): string[] {
  const named = connection === undefined || /^(keep-alive|close|upgrade)$/i.test(connection) ? null : tokens(connection);
  const kept: string[] = [];
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string;
    const lower = name.toLowerCase();
    if (!NOT_SENT.has(lower) && !named?.has(lower)) kept.push(name, rawHeaders[i + 1] as string);
  }
  return kept;
}

/** The headers that come back, names and values in turn, as they were received, after those of ours. */
export function responseHeaders(rawHeaders: readonly Buffer[], ours: readonly string[]): string[] {
  const kept = [...ours];
  let named: Set<string> | null = null;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] as Buffer).toString("latin1");
    const lower = name.toLowerCase();
    const value = (rawHeaders[i + 1] as Buffer).toString("latin1");
    if (lower === "connection" && !/^(keep-alive|close)$/i.test(value)) named = tokens(value, named);
    if (!NOT_RETURNED.has(lower) && !lower.startsWith("access-control-")) kept.push(name, value);
  }
  if (named === null) return kept;
  const hop = named;
  return kept.filter((_, i) => i < ours.length || !hop.has((kept[i - (i % 2)] as string).toLowerCase()));
}

const tokens = (list: string, before: Iterable<string> | null = null): Set<string> =>
  new Set([...(before ?? []), ...list.split(",").map((name) => name.trim().toLowerCase())]);
