import type { IncomingMessage } from "node:http";
import { splitTarget } from "./door.ts";
import { type AnyEndpoint, type AnyStream, type FunctionSpec, isRelay, isStream, parseRoute } from "./endpoint.ts";
import { ApiError } from "./error.ts";

/** What answers on one path, by method. Null: a probe, which answers for itself. */
export type Methods = ReadonlyMap<string, AnyEndpoint | AnyStream | null>;

/**
 * The paths of functions that are served together: each with its function's name in front, and without where one stands alone, or
 * where the endpoint is `bare`.
 */
export function routesOf(functions: readonly FunctionSpec[]): Map<string, Methods> {
  const routes = new Map<string, Map<string, AnyEndpoint | AnyStream>>();
  const add = (path: string, method: string, entry: AnyEndpoint | AnyStream) => {
    const methods = routes.get(path) ?? new Map<string, AnyEndpoint | AnyStream>();
    if (methods.has(method)) throw new Error(`Two endpoints answer ${method} ${path}.`);
    routes.set(path, methods.set(method, entry));
  };
  for (const { name, endpoints } of functions) {
    for (const entry of endpoints) {
      if (isRelay(entry)) continue;
      const { methods, path } = parseRoute(entry.route);
      const isShort = functions.length === 1 || (!isStream(entry) && entry.bare);
      for (const method of methods) {
        add(path, method, entry);
        if (isShort) add(path.slice(name.length + 1) || "/", method, entry);
      }
    }
  }
  return routes;
}

/** What answers a method; a HEAD is a GET without its body. Throws `not_found` and `method_not_allowed`. */
export function entryOf(methods: Methods, method = "GET"): AnyEndpoint | AnyStream {
  const entry = methods.get(method === "HEAD" ? "GET" : method);
  if (entry) return entry;
  if (methods.size === 0) throw new ApiError("not_found", { message: "There is no such path here." });
  throw new ApiError("method_not_allowed", { allow: allowed(methods).join(", ") });
}

export const allowed = (methods: Methods): string[] => [...methods.keys(), ...(methods.has("GET") ? ["HEAD"] : []), "OPTIONS"];

/** Finds the stream that is asked for. Escapes in a path are read as they are in other paths. */
export function streamFinder(functions: readonly FunctionSpec[]): (req: IncomingMessage) => AnyStream | null {
  const routes = [...routesOf(functions)];
  const streams = new Map(routes.filter(([, methods]) => [...methods.values()].some((entry) => entry && isStream(entry))));
  return ({ method, url = "/" }) => {
    const { path } = splitTarget(url);
    const entry = (streams.get(path) ?? streams.get(unescaped(path)))?.get(method === "HEAD" ? "GET" : (method ?? ""));
    return entry && isStream(entry) ? entry : null;
  };
}

/** A path with its escapes read, but for those that would make it another path, and those of a percent sign. */
export const unescaped = (path: string): string => decoded(path.replaceAll("%25", "%2525"), decodeURI);

/** What stood in a parameter's place in such a path. */
export const unescapedParameter = (text: string): string => decoded(text, decodeURIComponent);

function decoded(text: string, decode: (text: string) => string): string {
  if (!text.includes("%")) return text;
  try {
    return decode(text);
  } catch {
    return text;
  }
}
