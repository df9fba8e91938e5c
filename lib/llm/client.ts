import type OpenAI from "openai";
import { type Patience, persist } from "./retry.ts";
import type { Upstream, UpstreamAnswer } from "./upstream.ts";

/** As much of a `Response` as the library looks at. */
type Answer = {
  ok: boolean;
  status: number;
  url: string;
  headers: Map<string, string>;
  body?: unknown;
  json?(): Promise<unknown>;
};

/**
 * Calls the upstream by way of the official library, which is loaded with the first call. It writes bodies and reads answers; the
 * rest is not left to it: it has no key, opens no connection, repeats nothing, logs nothing, and neither its headers nor its
 * environment count. What `send` fails with is thrown as it is.
 */
export async function withClient<T>(
  send: (target: string, body: string) => Promise<Answer>,
  call: (client: OpenAI) => Promise<T>,
): Promise<T> {
  const { OpenAI: Client } = await import("openai");
  const account = { organization: null, project: null, adminAPIKey: null, webhookSecret: null };
  // The library wraps what it is told, and does not always keep the cause.
  let failed: { error: unknown } | null = null;
  const client = new Client({
    ...account,
    apiKey: "none",
    baseURL: "http://upstream/v1",
    maxRetries: 0,
    logLevel: "off",
    fetch: async (url, init) => {
      try {
        return (await send(new URL(String(url)).pathname, String(init?.body))) as unknown as Response;
      } catch (error) {
        failed = { error };
        throw error;
      }
    },
  });
  return call(client).catch((error: unknown) => {
    throw failed ? failed.error : error;
  });
}

/** Posts JSON until an answer is a success, whose body is unread. Throws a `CompletionError`, or the signal's reason. */
export function post(
  upstream: Upstream,
  target: string,
  body: string,
  patience: Patience,
  { accept, ...more }: { accept: string } & Record<string, string>,
): Promise<UpstreamAnswer> {
  const { signal } = patience;
  const bytes = Buffer.from(body);
  const headers = Object.entries({ "content-type": "application/json", accept, "user-agent": "proxy-gpt", ...more }).flat();
  return persist((connectMs) => upstream.request({ method: "POST", target, headers, body: bytes, signal, connectMs }), patience);
}
