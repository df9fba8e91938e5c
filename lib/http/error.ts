/** Every refusal the product can answer with: its status, OpenAI's error type, and what to do next. */
const CODES = {
  bad_request: [400, "invalid_request_error", "The request could not be understood."],
  bad_json: [400, "invalid_request_error", "The body is not valid JSON. Send one JSON object, UTF-8, without a byte order mark."],
  bad_form: [400, "invalid_request_error", "The form could not be read. Percent-encode its fields as UTF-8."],
  invalid_input: [400, "invalid_request_error", "A field is missing or wrong."],
  content_flagged: [400, "invalid_request_error", "Moderation flagged this; it was not sent."],
  bad_target: [400, "invalid_request_error", "The request target is not acceptable here."],
  two_credentials: [400, "invalid_request_error", "Two different credentials were sent. Send one."],
  unauthenticated: [
    401,
    "authentication_error",
    "Sign in first: send a token from /user/login or an API key as Authorization: Bearer.",
  ],
  wrong_password: [401, "authentication_error", "The username or the password is wrong."],
  forbidden: [403, "permission_error", "You may not do this."],
  origin_refused: [403, "permission_error", "This page may not do that here. Its origin must be listed in ALLOWED_ORIGINS."],
  path_denied: [
    403,
    "permission_error",
    "This path is not served: it mints credentials, manages the organization, or was denied by the administrator.",
  ],
  signup_closed: [403, "permission_error", "Signup is closed here. Ask an administrator for an account."],
  signup_code: [403, "permission_error", "Signup needs the right signup_code."],
  not_found: [404, "not_found_error", "There is nothing here that you can see."],
  method_not_allowed: [405, "invalid_request_error", "This path takes another method; the Allow header names it."],
  username_taken: [409, "invalid_request_error", "This username is taken. Choose another."],
  message_id_taken: [409, "invalid_request_error", "This message_id is another message's. Choose another."],
  last_owner: [409, "invalid_request_error", "A group keeps an owner. Make somebody else one first, or delete the group."],
  too_large: [413, "invalid_request_error", "The body is larger than this endpoint takes."],
  unsupported_media_type: [
    415,
    "invalid_request_error",
    "Send application/json or application/x-www-form-urlencoded in UTF-8, without a content encoding.",
  ],
  client_closed: [499, "invalid_request_error", "The connection ended before the whole request was here."],
  idempotency_mismatch: [
    422,
    "invalid_request_error",
    "This message_id or Idempotency-Key was used with another prompt. A new prompt takes a new one.",
  ],
  upgrade_required: [426, "invalid_request_error", "Use WebSocket version 13."],
  rate_limited: [429, "rate_limit_error", "Too many tries. Wait as long as Retry-After says."],
  header_too_large: [431, "invalid_request_error", "The headers are too large."],
  internal: [500, "server_error", "Something went wrong here. Quote the request id when you report it."],
  upstream_key_rejected: [502, "server_error", "The upstream refused the shared key. An administrator must check API_KEY."],
  upstream_unreachable: [502, "server_error", "The upstream could not be reached. Try again shortly."],
  upstream_refused: [502, "server_error", "The upstream refused the request."],
  upstream_failed: [502, "server_error", "The upstream failed. Try again shortly."],
  upstream_reset: [502, "server_error", "The upstream broke off. What came of a chat's reply is kept."],
  upstream_garbled: [502, "server_error", "The upstream answered something that is not what it was asked for."],
  interrupted: [502, "server_error", "The reply was interrupted: its instance is gone. What came of it is kept."],
  upstream_busy: [503, "rate_limit_error", "The upstream is at its limit. Try again as Retry-After says."],
  busy: [503, "server_error", "Too much to do at the moment. Try again shortly."],
  stopping: [503, "server_error", "This instance is stopping. Try again."],
  store_unavailable: [503, "server_error", "The store cannot be reached, and nothing is served unaudited. Try again shortly."],
  upstream_timeout: [504, "server_error", "The upstream did not answer in time."],
  upstream_stalled: [504, "server_error", "The upstream fell silent. What came of a chat's reply is kept."],
} as const satisfies Record<string, readonly [number, string, string]>;

export type ErrorCode = keyof typeof CODES;
export type ErrorDetails = { message?: string; param?: string; retryAfterSeconds?: number; allow?: string; cause?: unknown };

export const isErrorCode = (code: string): code is ErrorCode => Object.hasOwn(CODES, code);

export const statusOf = (code: ErrorCode): number => CODES[code][0];

/** A refusal on purpose. Everything about it may be shown to the caller, apart from its `cause`. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly code: ErrorCode;
  readonly status: number;
  readonly param: string | null;
  /** Response headers that belong to the refusal. */
  readonly headers: Record<string, string> = {};

  constructor(code: ErrorCode, details: ErrorDetails = {}) {
    super(details.message ?? CODES[code][2], { cause: details.cause });
    this.code = code;
    this.status = statusOf(code);
    this.param = details.param ?? null;
    if (details.allow) this.headers.allow = details.allow;
    const retryAfter = details.retryAfterSeconds ?? (this.status === 503 ? 2 : undefined);
    if (retryAfter !== undefined) this.headers["retry-after"] = String(Math.max(1, Math.ceil(retryAfter)));
    if (this.status === 401) this.headers["www-authenticate"] = 'Bearer realm="proxy-gpt"';
  }

  /** The one envelope: OpenAI's four keys, who says it, and the id to quote. */
  envelope(requestId: string) {
    return {
      error: {
        message: this.message,
        type: CODES[this.code][1],
        code: this.code,
        param: this.param,
        source: "gateway",
        request_id: requestId,
      },
    };
  }
}

/** Refuses what somebody may know exists, and may not do. */
export function forbid(message: string): never {
  throw new ApiError("forbidden", { message });
}
