import type { IncomingMessage, ServerResponse } from "node:http";
import type { Dispatcher } from "undici";
import { corsPairs } from "../http/browser.ts";
import type { Call } from "../http/endpoint.ts";
import { ApiError } from "../http/error.ts";
import { sendError } from "../http/raw.ts";
import { logFailure } from "../http/request-log.ts";
import type { Outcome } from "../repo/ledger.ts";
import { beginningBytes, MODEL_SEARCH_BYTES, modelInBody, requestAccount, usageOf } from "./account.ts";
import { requestHeaders, responseHeaders } from "./headers.ts";
import { Tap } from "./tap.ts";
import type { Upload } from "./upload.ts";

/** A file that somebody uploaded must not run as a page of ours. */
const NOT_A_PAGE = ["x-content-type-options", "nosniff", "content-security-policy", "default-src 'none'; sandbox"];
const ASCII = /^[\x20-\x7e]*$/;

/** What the raw listener knows of a relayed request when its exchange begins. */
export type Exchanged = { status: number; errorCode: string | null };

/** The client went away before it had its answer; the status is nginx's. */
export const CLIENT_GONE: Exchanged = { status: 499, errorCode: "client_closed" };
/** The session that it runs for has ended. */
export const REVOKED: Exchanged = { status: 401, errorCode: "session_ended" };

/**
 * One request to the upstream and its answer, both piped as they come. The event is completed before the answer ends: the last
 * bytes of an answer of known length wait for it, and the end of a stream does.
 */
export class Exchange implements Dispatcher.DispatchHandler {
  readonly #call: Call;
  readonly #target: string;
  readonly #req: IncomingMessage;
  readonly #res: ServerResponse;
  readonly #upload: Upload;
  readonly #startedMs = performance.now();
  readonly #done: (result: Exchanged) => void;
  #controller: Dispatcher.DispatchController | null = null;
  #tap: Tap | null = null;
  #status = 0;
  #requestId: string | null = null;
  /** Bytes of an answer of known length that are still to come. */
  #remaining = Number.NaN;
  #last: Buffer | null = null;
  #finished = false;
  #unwatch = () => {};

  private constructor(
    call: Call,
    target: string,
    req: IncomingMessage,
    res: ServerResponse,
    upload: Upload,
    done: (result: Exchanged) => void,
  ) {
    this.#call = call;
    this.#target = target;
    this.#req = req;
    this.#res = res;
    this.#upload = upload;
    this.#done = done;
  }

  /** Resolves when the exchange is over and its event complete. Rejects with a refusal while nothing was answered yet. */
  static run(call: Call, target: string, req: IncomingMessage, res: ServerResponse, upload: Upload): Promise<Exchanged> {
    return new Promise((resolve) => {
      const exchange = new Exchange(call, target, req, res, upload, resolve);
      res.once("close", () => exchange.#cut(CLIENT_GONE));
      if (call.caller) exchange.#unwatch = call.deps.revocation.watch(call.caller.sessionId, () => exchange.#cut(REVOKED));
      if (res.destroyed || req.socket.destroyed) exchange.#cut(CLIENT_GONE);
      else exchange.#dispatch();
    });
  }

  #dispatch(): void {
    const { method = "GET", rawHeaders, headers } = this.#req;
    const sent = requestHeaders(rawHeaders, headers.connection);
    try {
      this.#call.deps.upstream.dispatch({ method, target: this.#target, headers: sent, body: this.#upload.body() }, this);
    } catch (error) {
      this.onResponseError(this.#controller, error as Error);
    }
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#finished) controller.abort(new Error("too late"));
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: Record<string, string | string[] | undefined>,
    statusText?: string,
  ): void {
    if (this.#finished || status < 200) return;
    this.#status = status;
    this.#requestId = text(headers["x-request-id"]) || null;
    if (status === 401) {
      this.#fail(new ApiError("upstream_key_rejected"));
      controller.abort(new Error("key rejected"));
      return;
    }
    const { deps } = this.#call;
    this.#tap = new Tap(
      text(headers["content-type"]),
      text(headers["content-encoding"]).toLowerCase(),
      beginningBytes(deps.config.audit.bodyBytes),
    );
    this.#remaining = headers["content-length"] === undefined ? Number.NaN : Number(headers["content-length"]);
    if (headers.date !== undefined) this.#res.sendDate = false;
    const cors = corsPairs(this.#req.headers.origin, deps.config.allowedOrigins);
    const ours = ["x-proxy-gpt-request-id", this.#call.id, ...NOT_A_PAGE, ...cors];
    // undici reads it as UTF-8, and Node throws at what is not Latin-1.
    const reason = statusText !== undefined && ASCII.test(statusText) ? statusText : "";
    this.#res.writeHead(status, reason, responseHeaders(controller.rawHeaders as Buffer[], ours));
    if (this.#tap.isStream) this.#res.flushHeaders();
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#finished) return;
    this.#tap?.push(chunk);
    this.#remaining -= chunk.length;
    if (this.#remaining === 0) this.#last = chunk;
    else if (!this.#res.write(chunk)) {
      controller.pause();
      this.#res.once("drain", () => controller.resume());
    }
  }

  onResponseEnd(): void {
    if (this.#finished) return;
    void this.#finish({ status: this.#status, errorCode: null }, () => this.#res.end(this.#last ?? undefined));
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    if (this.#finished) return;
    const code = "code" in error ? error.code : undefined;
    if (!this.#res.headersSent) {
      this.#fail(
        new ApiError(code === "UND_ERR_HEADERS_TIMEOUT" ? "upstream_timeout" : "upstream_unreachable", { cause: error }),
      );
    } else {
      // A clean end would pass a cut answer off as a whole one.
      const errorCode = code === "UND_ERR_BODY_TIMEOUT" ? "upstream_stalled" : "upstream_reset";
      void this.#finish({ status: 502, errorCode }, () => this.#res.destroy());
    }
  }

  #fail(error: ApiError): void {
    const { id, deps } = this.#call;
    logFailure(id, error.cause ?? error, deps);
    this.#upload.discard();
    void this.#finish({ status: error.status, errorCode: error.code }, () => sendError(this.#req, this.#res, error, id, deps));
  }

  /** Ends both sides in the middle. */
  #cut(result: Exchanged): void {
    if (this.#finished) return;
    void this.#finish(result, () => this.#res.destroy());
    // Only now: aborting tells us of an error at once, and that is not how it ended.
    this.#controller?.abort(new Error(String(result.errorCode)));
  }

  /** Completes the event, then ends the answer. */
  async #finish(result: Exchanged, end: () => void): Promise<void> {
    this.#finished = true;
    this.#unwatch();
    const { id, deps } = this.#call;
    try {
      if (this.#tap?.isDecoding) await this.#tap.end();
      await deps.ledger.close(id, this.#outcome(result));
      end();
    } catch (error) {
      logFailure(id, error, deps);
      this.#res.destroy();
    }
    this.#done(result);
  }

  #outcome({ status, errorCode }: Exchanged): Outcome {
    const { deps, caller } = this.#call;
    const { bodyBytes } = deps.config.audit;
    const account = requestAccount(this.#req, this.#upload, bodyBytes);
    return {
      endedAt: new Date(deps.now()),
      status,
      durationMs: Math.round(performance.now() - this.#startedMs),
      userId: caller?.userId ?? null,
      model: account.model ?? modelInBody(this.#tap?.text(MODEL_SEARCH_BYTES) ?? ""),
      usage: usageOf(this.#target.split("?", 1)[0] as string, this.#upload, this.#tap),
      upstreamRequestId: this.#requestId,
      errorCode,
      requestBody: account.body,
      responseBody: this.#tap?.text(bodyBytes) ?? null,
      subject: null,
    };
  }
}

const text = (value: string | string[] | undefined): string => (Array.isArray(value) ? value.join(", ") : (value ?? ""));
