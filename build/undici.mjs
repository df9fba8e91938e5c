import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const library = join(dirname(createRequire(import.meta.url).resolve("undici/package.json")), "lib");

/**
 * undici without its `fetch`, WebSocket, caches and mocks, which a function has no use for and would parse at every start: what
 * is imported from it, and `request` as a method of its dispatchers, as its own index has it.
 */
const SLIM = `
import Dispatcher from "./dispatcher/dispatcher.js";
import Agent from "./dispatcher/agent.js";
import request from "./api/api-request.js";
Dispatcher.prototype.request = request;
let shared;
const requestOnce = (url, options) => {
  const { origin, pathname, search } = new URL(url);
  const method = options.method ?? (options.body ? "PUT" : "GET");
  return (options.dispatcher ?? (shared ??= new Agent())).request({ ...options, method, origin, path: pathname + search });
};
export { Agent, requestOnce as request };
export { default as Pool } from "./dispatcher/pool.js";
export { default as buildConnector } from "./core/connect.js";
export { default as errors } from "./core/errors.js";
`;
/** The parser in a form for processors of another age. */
const NO_PARSER = 'throw new Error("this parser is not part of a function");';
/** Nobody asks for HTTP/2, whose module of Node's is loaded as soon as this is. */
const NO_HTTP2 = 'module.exports = () => { throw new Error("HTTP/2 is not part of a function"); };';

export const slimUndici = {
  name: "slim-undici",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^undici$/ }, () => ({ path: "undici", namespace: "slim" }));
    onLoad({ filter: /^undici$/, namespace: "slim" }, () => ({ contents: SLIM, resolveDir: library, loader: "js" }));
    onLoad({ filter: /[\\/]undici[\\/]lib[\\/]llhttp[\\/]llhttp-wasm\.js$/ }, () => ({ contents: NO_PARSER, loader: "js" }));
    onLoad({ filter: /[\\/]undici[\\/]lib[\\/]dispatcher[\\/](client-h2|h2c-client)\.js$/ }, () => ({
      contents: NO_HTTP2,
      loader: "js",
    }));
  },
};
