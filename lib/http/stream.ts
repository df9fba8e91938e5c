import type { IncomingMessage, ServerResponse } from "node:http";
import type { Deps } from "../deps.ts";
import { describeError } from "../log.ts";
import { admitted } from "./admission.ts";
import { itsTurn } from "./answer.ts";
import { splitTarget } from "./door.ts";
import type { AnyStream } from "./endpoint.ts";
import { ApiError } from "./error.ts";
import { complete, type EventSoFar, newEvent } from "./event.ts";
import { type AnswerHeaders, headersFor, sendError } from "./raw.ts";
import { type Begun, beginRequest, type Ended, endRequest, logFailure } from "./request-log.ts";
import { toApiError } from "./serve.ts";
import { SseViewer, writeStreamHead } from "./sse.ts";
import type { Ending, SocketViewer } from "./viewer.ts";
import type { Viewers } from "./viewers.ts";

/** A request for a stream. `head`: where a WebSocket is asked for, what the client has already said. */
export type StreamRequest = { entry: AnyStream; req: IncomingMessage; res: ServerResponse; head: Buffer | null };

/** What is left of a request once its stream flows, and all that is kept meanwhile. */
type Flowing = { viewer: SocketViewer; event: EventSoFar; detach(): void; told: Told };
/** What its line of the log says. */
type Told = Pick<Ended, "what" | "entry"> & { begun: Begun };

/** The whole life of a stream: what comes before it is as for an endpoint, and its event is completed when it is over. */
export function serveStream(asked: StreamRequest, viewers: Viewers, deps: Deps): Promise<void> {
  return begin(asked, viewers, deps).then((flowing) => (flowing ? flow(flowing, deps) : undefined));
}

/** Answers a refusal, a HEAD, or the beginning of a stream. */
async function begin(asked: StreamRequest, viewers: Viewers, deps: Deps): Promise<Flowing | null> {
  const { entry, req, res } = asked;
  if (!(await itsTurn(req, res))) return null;
  const begun = beginRequest(req, deps);
  const { id } = begun;
  const target = splitTarget(req.url ?? "/");
  const told = { begun, what: `${req.method} ${target.path}`, entry };
  const event = newEvent();
  try {
    const headers = headersFor(req, id, deps);
    const newViewer = await viewerFor(asked, headers);
    const { call, input, grant } = await admitted(entry, { req, id, target, parameters: {}, deps }, event);
    if (req.method === "HEAD") {
      await complete(event, { status: 200, errorCode: null }, null);
      writeStreamHead(res, headers);
      res.end();
      log(told, event, 200, null, deps);
      return null;
    }
    const viewer = newViewer(lastEventId(req, input));
    const unwatch = call.caller && deps.revocation.watch(call.caller.sessionId, () => viewer.end("session_ended"));
    let close = () => {};
    try {
      close = await entry.open({ grant, input, call, deps, viewer });
      viewer.begin();
    } catch (thrown) {
      unwatch?.();
      close();
      throw thrown;
    }
    const remove = viewers.add(viewer);
    forget(req, event);
    const detach = () => {
      remove();
      unwatch?.();
      close();
    };
    return { viewer, event, detach, told };
  } catch (thrown) {
    const error = toApiError(thrown);
    if (error.status >= 500) logFailure(id, error.cause ?? error, deps);
    await complete(event, { status: error.status, errorCode: error.code }, null);
    sendError(req, res, error, id, deps);
    log(told, event, error.status, error.code, deps);
    return null;
  }
}

/** What a request said is of no use any more, and a crowd of viewers would keep it for an hour. */
function forget(req: IncomingMessage, event: EventSoFar): void {
  Object.assign(req, { headers: {}, rawHeaders: [] });
  if (event.call) event.call = { ...event.call, headers: {} };
}

/** From the first frame to the end, whoever ends it. */
async function flow({ viewer, event, detach, told }: Flowing, deps: Deps): Promise<void> {
  let { errorCode, cause } = await viewer.over;
  try {
    detach();
  } catch (thrown) {
    errorCode = "internal";
    cause = thrown;
  }
  if (cause !== undefined)
    deps.log({ severity: "ERROR", message: "stream failed", requestId: told.begun.id, ...describeError(cause) });
  const ended = endingOf(viewer, errorCode);
  await complete(event, ended, null);
  if (viewer.begun) viewer.finish({ errorCode });
  log(told, event, ended.status, ended.errorCode, deps);
}

/** Leaving is how a stream ends; only who leaves before it begins has broken something off. */
function endingOf({ begun, status }: SocketViewer, errorCode: Ending["errorCode"]) {
  const { status: gone, code } = new ApiError("client_closed");
  return begun ? { status, errorCode } : { status: gone, errorCode: errorCode ?? code };
}

/** How the client wants it. The WebSocket library is loaded when one is first asked for. Throws for a handshake that is wrong. */
async function viewerFor(
  { req, res, head }: StreamRequest,
  headers: AnswerHeaders,
): Promise<(last: string | null) => SocketViewer> {
  if (!head) return (last) => new SseViewer(res, headers, last);
  const { checkHandshake, WsViewer } = await import("./ws.ts");
  checkHandshake(req);
  return (last) => new WsViewer({ req, res, head }, headers, last);
}

/** A browser that comes again by itself repeats the old query, so its header is the newer word. */
function lastEventId({ headers }: IncomingMessage, { after }: { after?: string }): string | null {
  const header = headers["last-event-id"];
  return (typeof header === "string" ? header : "") || after || null;
}

function log({ begun, what, entry }: Told, event: EventSoFar, status: number, code: string | null, deps: Deps): void {
  endRequest(begun, { what, entry, userId: event.known.userId ?? null, status, code }, deps);
}
