const SECRETS = /(token|ticket|password|secret|signup_code|api[-_]?key)$/i;
/** What people say may be off the record, and an image's address may be its key. */
const SPEECH = /^(prompt|content|fields|url)$/i;
const TOKEN = /pg[skt]_[A-Za-z0-9_-]{20}/;

/** Whether a field, by its name, holds a secret or what somebody said: addresses are kept, in logs and elsewhere. */
export const belongsInBody = (name: string): boolean => SECRETS.test(name) || SPEECH.test(name);

/** A query as it may be kept: what belongs into a body is left out, and so is a token of ours under whatever name, or none. */
export function withoutSecrets(query: string): string {
  if (query === "") return query;
  return query
    .split("&")
    .map((pair) => {
      const equals = pair.indexOf("=");
      const [name, value] = [pair.slice(0, Math.max(0, equals)), pair.slice(equals + 1)];
      if (TOKEN.test(decoded(name))) return "=";
      if (TOKEN.test(decoded(value))) return equals < 0 ? "" : `${name}=`;
      return equals >= 0 && belongsInBody(decoded(name)) ? `${name}=` : pair;
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
