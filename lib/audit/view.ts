import * as z from "zod";
import { time } from "../http/fields.ts";
import { type EventRow, stateOf } from "../repo/events.ts";

/** One request in the audit log. */
export const EventView = z.object({
  id: z.string(),
  /** `interrupted`: its end was never written, because the instance was killed. */
  state: z.enum(["done", "running", "interrupted"]),
  started_at: time,
  ended_at: time.nullable(),
  duration_ms: z.int().nullable(),
  user_id: z.string().nullable(),
  session_id: z.string().nullable(),
  group_id: z.string().nullable(),
  chat_id: z.string().nullable(),
  function: z.string(),
  endpoint: z.string(),
  method: z.string(),
  path: z.string(),
  query: z.string(),
  address: z.string(),
  status: z.int().nullable(),
  error_code: z.string().nullable(),
  model: z.string().nullable(),
  prompt_tokens: z.int().nullable(),
  completion_tokens: z.int().nullable(),
  tokens_estimated: z.boolean().nullable(),
  upstream_request_id: z.string().nullable(),
  request_body: z.string().nullable(),
  response_body: z.string().nullable(),
});

/** An event as the wire has it. */
export const eventView = (event: EventRow, nowMs: number): z.input<typeof EventView> => ({
  id: event.id,
  state: stateOf(event, nowMs),
  started_at: event.startedAt.toISOString(),
  ended_at: event.endedAt?.toISOString() ?? null,
  duration_ms: event.durationMs,
  user_id: event.userId,
  session_id: event.sessionId,
  group_id: event.groupId,
  chat_id: event.chatId,
  function: event.endpoint.split(".", 1)[0] as string,
  endpoint: event.endpoint,
  method: event.method,
  path: event.path,
  query: event.query,
  address: event.address,
  status: event.status,
  error_code: event.errorCode,
  model: event.model,
  prompt_tokens: event.promptTokens,
  completion_tokens: event.completionTokens,
  tokens_estimated: event.tokensEstimated,
  upstream_request_id: event.upstreamRequestId,
  request_body: event.requestBody,
  response_body: event.responseBody,
});
