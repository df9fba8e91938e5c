import type { Upstream } from "../llm/upstream.ts";

/** A call's span: its answer's status when that is there, and its end, with what it failed of. Only the first end counts. */
export type CallSpan = { answered(status: number): void; end(errorType?: string): void };
export type BeginCall = (method: string, path: string) => CallSpan;
/** undici's `DispatchHandler`. */
type Handler = Parameters<Upstream["dispatch"]>[1];

/** The upstream, with a span from each call to the end of its answer. A call's own handler is called with all that it would hear. */
export function withSpans(upstream: Upstream, beginCall: BeginCall): Upstream {
  const begin = (method: string, target: string) => beginCall(method, target.split("?", 1)[0] as string);
  return {
    dispatch: (request, handler) => {
      const span = begin(request.method, request.target);
      try {
        upstream.dispatch(request, listening(handler, span));
      } catch (error) {
        span.end(nameOf(error));
        throw error;
      }
    },
    request: async (call) => {
      const span = begin(call.method, call.target);
      try {
        const answer = await upstream.request(call);
        span.answered(answer.status);
        answer.body.once("close", () => span.end(answer.body.errored ? nameOf(answer.body.errored) : undefined));
        return answer;
      } catch (error) {
        span.end(nameOf(error));
        throw error;
      }
    },
    upgrade: (target, headers) => {
      const span = begin("GET", target);
      const request = upstream.upgrade(target, headers);
      request.once("error", (error) => span.end(nameOf(error)));
      request.once("response", ({ statusCode = 0 }) => span.answered(statusCode));
      request.once("close", () => span.end());
      // A conversation is its request's, whose span lasts as long as it does; the call is over when it begins.
      request.once("upgrade", ({ statusCode = 101 }) => {
        span.answered(statusCode);
        span.end();
      });
      return request;
    },
    close: () => upstream.close(),
  };
}

function listening(handler: Handler, span: CallSpan): Handler {
  return {
    onRequestStart: (...args) => handler.onRequestStart?.(...args),
    onRequestUpgrade: (...args) => handler.onRequestUpgrade?.(...args),
    onResponseStart: (controller, status, headers, reason) => {
      if (status >= 200) span.answered(status);
      handler.onResponseStart?.(controller, status, headers, reason);
    },
    onResponseData: (...args) => handler.onResponseData?.(...args),
    onResponseEnd: (...args) => {
      span.end();
      handler.onResponseEnd?.(...args);
    },
    onResponseError: (controller, error) => {
      span.end(nameOf(error));
      handler.onResponseError?.(controller, error);
    },
  };
}

/** What an error is called: its code, or its class. Its message may hold what was said. */
function nameOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  return "code" in error && typeof error.code === "string" ? error.code : error.name;
}
