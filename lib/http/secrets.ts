const NAMES = /(token|password|secret|signup_code|api[-_]?key)$/i;
const TOKEN = /pg[sk]_[A-Za-z0-9_-]{20}/;

/** Whether a field holds a secret, by its name. Such a field belongs into a body: addresses are kept, in logs and elsewhere. */
export const isSecret = (name: string): boolean => NAMES.test(name);

/** A query as it may be kept: the values of secrets are left out, and so is a token of ours under whatever name. */
export function withoutSecrets(query: string): string {
  if (!query.includes("=")) return query;
  return query
    .split("&")
    .map((pair) => {
      const equals = pair.indexOf("=");
      const [name, value] = [pair.slice(0, equals), pair.slice(equals + 1)];
      return equals >= 0 && (isSecret(decoded(name)) || TOKEN.test(decoded(value))) ? `${name}=` : pair;
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
