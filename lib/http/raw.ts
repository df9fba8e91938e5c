import type { IncomingMessage, ServerResponse } from "node:http";
import type { Deps } from "../deps.ts";
import { corsHeaders, SECURITY_HEADERS } from "./browser.ts";
import type { ApiError } from "./error.ts";

/** Answers a raw request with the one envelope, unless it is too late for that. */
export function sendError(req: IncomingMessage, res: ServerResponse, error: ApiError, id: string, deps: Deps): void {
  if (res.destroyed || res.headersSent) return;
  const body = JSON.stringify(error.envelope(id));
  res.writeHead(error.status, {
    ...SECURITY_HEADERS,
    ...corsHeaders(req.headers.origin, deps.config.allowedOrigins),
    "x-proxy-gpt-request-id": id,
    ...error.headers,
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    ...(!req.complete && { connection: "close" }),
  });
  res.end(req.method === "HEAD" ? undefined : body);
}
