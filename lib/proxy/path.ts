import { ApiError } from "../http/error.ts";

/** What nearly every target looks like: nothing in it could be read in two ways. */
const PLAIN = /^\/v1\/[A-Za-z0-9_\-/]+(\?[A-Za-z0-9_\-=&.,+]*)?$/;
/** In no target: an escape that is none, NUL, a space, a control character, a fragment. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused.
const NOT_IN_TARGET = /%(?![0-9a-fA-F]{2})|%00|[\s#\u0000-\u001f\u007f]/;
/** In no path, however often it is decoded. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused.
const NOT_IN_PATH = /[\\\u0000-\u001f\u007f]/;
/** How often a path is decoded before it must hold still. */
const MAX_DECODING = 4;

/**
 * Proves that a request target stays below `/v1/`, as it is, decoded any number of times, and as a URL parser resolves it;
 * it is then passed on byte for byte. Throws `not_found` for what is elsewhere, and `bad_target`.
 */
export function provenTarget(target: string): string {
  if (PLAIN.test(target) && !target.includes("//")) return target;
  if (!target.startsWith("/v1/")) throw new ApiError("not_found", { message: "There is no such path here." });
  if (NOT_IN_TARGET.test(target)) throw new ApiError("bad_target");
  for (const form of decodings(target.split("?", 1)[0] as string)) {
    if (NOT_IN_PATH.test(form) || form.split("/").some((segment) => segment === "." || segment === ".."))
      throw new ApiError("bad_target");
  }
  const resolved = new URL(target, "http://upstream.invalid");
  if (resolved.host !== "upstream.invalid" || !resolved.pathname.startsWith("/v1/")) throw new ApiError("bad_target");
  return target;
}

/** A path as every reader could take it: as it is, and decoded until it no longer changes. */
function decodings(path: string): string[] {
  const forms = [path];
  for (let form = path; forms.length <= MAX_DECODING; ) {
    const next = decodeOnce(form);
    if (next === form) return forms;
    form = next;
    forms.push(form);
  }
  throw new ApiError("bad_target");
}

/** Bytes above ASCII are nobody's separator and stay, and so does a `%` that was itself escaped (`100%25`). */
const decodeOnce = (text: string): string =>
  text.replace(/%([0-9a-fA-F]{2})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 16)));
