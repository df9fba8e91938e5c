import type { IncomingMessage, ServerResponse } from "node:http";
import type { Config } from "../config.ts";
import { createIds } from "../ids.ts";
import { corsHeaders, SECURITY_HEADERS } from "./browser.ts";
import { hasCredential } from "./credentials.ts";

export const GREETING = "Hello, World!";
export const GREETING_TYPE = "text/html; charset=utf-8";

/**
 * What greets at a function's root before anything else of it is loaded: whoever asks whether it is there gets that answer at once.
 * Answers whether it did; who sends a credential may want something that has the same path.
 */
export function greeter({
  allowedOrigins,
}: Pick<Config, "allowedOrigins">): (req: IncomingMessage, res: ServerResponse) => boolean {
  const newId = createIds();
  return (req, res) => {
    if (req.method !== "GET" || req.url !== "/" || hasCredential(req)) return false;
    res.writeHead(200, {
      ...SECURITY_HEADERS,
      ...corsHeaders(req.headers.origin, allowedOrigins),
      "x-proxy-gpt-request-id": newId(),
      "content-type": GREETING_TYPE,
      "content-length": GREETING.length,
    });
    res.end(GREETING);
    return true;
  };
}
