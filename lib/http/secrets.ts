const SECRETS = /(token|ticket|password|secret|signup_code|api[-_]?key)$/i;
/** What people say may be off the record, and an image's address may be its key. */
const SPEECH = /^(prompt|content|fields|url)$/i;
const TOKEN = /pg[skt]_[A-Za-z0-9_-]{20}/;

/** Whether a field, by its name, holds a secret or what somebody said: addresses are kept, in logs and elsewhere. */
export const belongsInBody = (name: string): boolean => SECRETS.test(name) || SPEECH.test(name);

/** A query as it may be kept: what belongs into a body is left out, and so is a token of ours under whatever name. */
export function withoutSecrets(query: string): string {
  if (!query.includes("=")) return query;
  return query
    .split("&")
    .map((pair) => {
      const equals = pair.indexOf("=");
      const [name, value] = [pair.slice(0, equals), pair.slice(equals + 1)];
      return equals >= 0 && (belongsInBody(decoded(name)) || TOKEN.test(decoded(value))) ? `${name}=` : pair;
    })
    .join("&");
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
