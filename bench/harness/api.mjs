import { call } from "./http.mjs";

/** An answer may be as long in coming as a reply is. */
const TIMEOUT_MS = 60_000;

/**
 * A call of proxy-gpt's own API. Anything but success is an error.
 * @param {{ port: number, headers: Record<string, string> }} caller
 * @param {string} path
 * @param {Record<string, unknown>} body
 */
export async function post({ port, headers }, path, body) {
  const options = { port, path, method: "POST", headers: { "content-type": "application/json", ...headers } };
  const { status, text } = await call({ ...options, body: JSON.stringify(body), timeoutMs: TIMEOUT_MS });
  if (status >= 300) throw new Error(`POST ${path} answered ${status}: ${text.slice(0, 300)}`);
  return JSON.parse(text);
}
