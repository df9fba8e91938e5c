import type { ServerResponse } from "node:http";
import { outcomeOf } from "../audit/outcome.ts";
import type { Deps } from "../deps.ts";
import { corsHeaders, isPreflight, preflightHeaders, SECURITY_HEADERS } from "../http/browser.ts";
import { type Entered, enter, refuseAnonymous, splitTarget } from "../http/door.ts";
import type { Call, RawRequest } from "../http/endpoint.ts";
import { ApiError } from "../http/error.ts";
import { sendError } from "../http/raw.ts";
import { beginRequest, endRequest, logFailure } from "../http/request-log.ts";
import { toApiError } from "../http/serve.ts";
import { beginningBytes } from "./account.ts";
import { Exchange, type Exchanged } from "./exchange.ts";
import { provenTarget } from "./path.ts";
import { createPolicy } from "./policy.ts";
import { Upload } from "./upload.ts";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const SAFE = new Set(["GET", "HEAD", "OPTIONS"]);

const policies = new WeakMap<Deps, ReturnType<typeof createPolicy>>();

/** One request to `/v1` and its whole life: what may not pass is refused before anything is written or sent. */
export async function relayRequest(raw: RawRequest, res: ServerResponse): Promise<void> {
  const { req, deps } = raw;
  const begun = beginRequest(req, deps);
  const { id } = begun;
  if (isPreflight(req.method, req.headers)) {
    const cors = corsHeaders(req.headers.origin, deps.config.allowedOrigins);
    const ours = { ...SECURITY_HEADERS, "x-proxy-gpt-request-id": id };
    res.writeHead(204, { ...ours, ...cors, ...preflightHeaders(req.headers, METHODS) }).end();
    return;
  }
  let upload: Upload | undefined;
  let result: Exchanged;
  let call: Call | undefined;
  try {
    const target = admitTarget(raw);
    upload = new Upload(req, beginningBytes(deps.config.audit.bodyBytes));
    call = await admit(raw, target, id);
    result = await Exchange.run(call, target, req, res, upload);
  } catch (thrown) {
    upload?.discard();
    const error = toApiError(thrown);
    sendError(req, res, error, id, deps);
    if (error.status >= 500) logFailure(id, error.cause ?? error, deps);
    result = { status: error.status, errorCode: error.code };
  }
  const { status, errorCode } = result;
  const what = `${req.method} ${raw.relay.name}`;
  const userId = call?.caller?.userId ?? null;
  endRequest(begun, { what, entry: raw.relay, userId, status, code: errorCode }, deps);
}

/** The target, once it is proven that it stays below `/v1/`. Throws `not_found`, `bad_target`, `method_not_allowed`. */
export function admitTarget({ req, target }: RawRequest): string {
  if (!METHODS.includes(req.method ?? "")) throw new ApiError("method_not_allowed", { allow: METHODS.join(", ") });
  return provenTarget(target);
}

/** The call, once its event is open and its guard is passed. An event that was opened for a refused call is completed. */
export async function admit(raw: RawRequest, target: string, id: string, alwaysWrites = false): Promise<Call> {
  const { req, deps, relay } = raw;
  const door = {
    endpoint: relay.name,
    access: relay.access,
    writes: alwaysWrites || !SAFE.has(req.method ?? "GET"),
    audited: true,
  };
  const entered = await enter(req, id, splitTarget(raw.target), door, deps);
  try {
    refuseAnonymous(entered, door);
    await relay.access.admit(entered.call, undefined);
    policyOf(deps)(req.method ?? "GET", target);
    return entered.call;
  } catch (thrown) {
    await closeRefused(entered, toApiError(thrown));
    throw thrown;
  }
}

function policyOf(deps: Deps): ReturnType<typeof createPolicy> {
  const policy = policies.get(deps) ?? createPolicy(deps.config.proxy);
  policies.set(deps, policy);
  return policy;
}

async function closeRefused({ call, opened }: Entered, error: ApiError): Promise<void> {
  if (!opened) return;
  await call.deps.ledger.close(call.id, outcomeOf(call, { status: error.status, errorCode: error.code }));
}
