import { type ClientRequest, type IncomingMessage, ServerResponse, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { outcomeOf } from "../audit/outcome.ts";
import { withoutKeyProtocol } from "../http/credentials.ts";
import type { Call, RawRequest } from "../http/endpoint.ts";
import { ApiError } from "../http/error.ts";
import { hangUp, sendError } from "../http/raw.ts";
import { beginRequest, endRequest, logFailure } from "../http/request-log.ts";
import { toApiError } from "../http/serve.ts";
import type { Outcome } from "../repo/ledger.ts";
import { modelInQuery } from "./account.ts";
import { CLIENT_GONE, type Exchanged, REVOKED } from "./exchange.ts";
import { requestHeaders, responseHeaders } from "./headers.ts";
import { UsageFinder } from "./tap.ts";
import { admit, admitTarget } from "./v1.ts";

const SWITCHING = 101;
/** What a client may say before the upstream has agreed to listen; then it has to wait. */
const EARLY_BYTES = 65_536;

/**
 * A WebSocket below `/v1` (the Realtime API): the upgrade is asked of the upstream, its answer passed on as it is, and from
 * then on bytes are piped both ways. Compression is not offered, so that usage can be read from a copy of the frames.
 */
export async function relayUpgrade(raw: RawRequest, socket: Duplex, head: Buffer): Promise<void> {
  const { req, deps } = raw;
  const begun = beginRequest(req, deps);
  const { id } = begun;
  const res = new ServerResponse(req);
  res.assignSocket(socket as Socket);
  res.shouldKeepAlive = false;
  res.once("finish", () => hangUp(socket));
  socket.on("error", () => socket.destroy());
  let result: Exchanged;
  let call: Call | undefined;
  try {
    if (req.headers["sec-websocket-version"] !== "13") throw new ApiError("upgrade_required");
    const target = admitTarget(raw);
    call = await admit(raw, target, id, true);
    result = await tunnel(call, target, req, res, socket, head);
  } catch (thrown) {
    const error = toApiError(thrown);
    if (error.code === "upgrade_required") error.headers["sec-websocket-version"] = "13";
    sendError(req, res, error, id, deps);
    result = { status: error.status, errorCode: error.code };
  }
  const { status, errorCode } = result;
  const userId = call?.caller?.userId ?? null;
  endRequest(begun, { what: `UPGRADE ${raw.relay.name}`, entry: raw.relay, userId, status, code: errorCode }, deps);
}

function tunnel(
  call: Call,
  target: string,
  req: IncomingMessage,
  res: ServerResponse,
  socket: Duplex,
  head: Buffer,
): Promise<Exchanged> {
  const { deps } = call;
  const usage = new RealtimeUsage();
  return new Promise((resolve) => {
    let over = false;
    let unwatch = () => {};
    const finish = (result: Exchanged, end: () => void) => {
      if (over) return;
      over = true;
      unwatch();
      const settle = () => {
        end();
        resolve(result);
      };
      void deps.ledger.close(call.id, outcome(call, target, result, usage)).then(settle, settle);
    };
    const fail = (error: ApiError) => {
      if (over) return;
      logFailure(call.id, error.cause ?? error, deps);
      finish({ status: error.status, errorCode: error.code }, () => sendError(req, res, error, call.id, deps));
    };
    if (socket.destroyed) return finish(CLIENT_GONE, () => {});
    let upstream: ClientRequest;
    try {
      upstream = deps.upstream.upgrade(target, upgradeHeaders(req));
    } catch (error) {
      return fail(toApiError(error));
    }

    // Node stops reading an upgraded socket; without this a client that goes away before the answer is not noticed.
    const goneEarly = () => {
      upstream.destroy();
      finish(CLIENT_GONE, () => socket.destroy());
    };
    socket.once("close", goneEarly);
    socket.once("end", goneEarly);
    const early: Buffer[] = [head];
    let earlyBytes = head.length;
    const readEarly = (chunk: Buffer) => {
      early.push(chunk);
      earlyBytes += chunk.length;
      if (earlyBytes > EARLY_BYTES) socket.pause();
    };
    socket.on("data", readEarly);

    upstream.once("timeout", () =>
      upstream.destroy(Object.assign(new Error("upstream timeout"), { code: "UND_ERR_HEADERS_TIMEOUT" })),
    );
    upstream.once("error", (error) => {
      const timedOut = "code" in error && error.code === "UND_ERR_HEADERS_TIMEOUT";
      fail(new ApiError(timedOut ? "upstream_timeout" : "upstream_unreachable", { cause: error }));
    });
    upstream.once("response", (answer) => {
      if (answer.statusCode === 401) {
        fail(new ApiError("upstream_key_rejected"));
        upstream.destroy();
        return;
      }
      socket.off("data", readEarly);
      res.writeHead(
        answer.statusCode ?? 502,
        responseHeaders(answer.rawHeaders.map(latin1), ["x-proxy-gpt-request-id", call.id]),
      );
      answer.pipe(res);
      const status = answer.statusCode ?? 502;
      answer.once("close", () => {
        if (answer.complete) finish({ status, errorCode: "upgrade_refused" }, () => {});
        else finish({ status: 502, errorCode: "upstream_reset" }, () => socket.destroy());
      });
    });
    upstream.once("upgrade", (answer, upstreamSocket, upstreamHead) => {
      socket.off("close", goneEarly);
      socket.off("end", goneEarly);
      socket.off("data", readEarly);
      res.detachSocket(socket as Socket);
      socket.write(switchingHead(answer, call.id), "latin1");
      pipeBoth(socket, Buffer.concat(early), upstreamSocket, upstreamHead, usage, (errorCode) =>
        finish({ status: SWITCHING, errorCode }, () => {}),
      );
      if (!call.caller) return;
      unwatch = deps.revocation.watch(call.caller.sessionId, () => finish(REVOKED, () => socket.destroy()));
    });
    upstream.end();
  });
}

function pipeBoth(
  client: Duplex,
  clientHead: Buffer,
  upstream: Socket,
  upstreamHead: Buffer,
  usage: RealtimeUsage,
  done: (errorCode: string | null) => void,
): void {
  upstream.setNoDelay(true);
  upstream.setTimeout(0);
  // Put back before anyone listens: a stream that flows would say it to the first listener alone.
  if (upstreamHead.length > 0) upstream.unshift(upstreamHead);
  upstream.on("data", (chunk) => usage.finder.push(chunk));
  if (clientHead.length > 0) upstream.write(clientHead);
  client.pipe(upstream);
  upstream.pipe(client);
  // Either end's death is the other's. A clean end is passed on by `pipe`, behind what a slow client has still to read.
  client.once("close", () => {
    upstream.destroy();
    done(null);
  });
  upstream.on("error", () => client.destroy());
  upstream.once("close", () => {
    (client as Socket).destroySoon();
    done(null);
  });
}

/** Realtime reports usage at the end of each response; a session's is their sum. */
class RealtimeUsage {
  promptTokens = 0;
  completionTokens = 0;
  readonly finder = new UsageFinder(({ promptTokens, completionTokens }) => {
    this.promptTokens += promptTokens;
    this.completionTokens += completionTokens;
  });
}

function outcome(call: Call, target: string, result: Exchanged, { promptTokens, completionTokens }: RealtimeUsage): Outcome {
  return outcomeOf(call, {
    ...result,
    userId: call.caller?.userId ?? null,
    model: modelInQuery(target),
    usage: promptTokens + completionTokens > 0 ? { promptTokens, completionTokens, estimated: false } : null,
  });
}

/** The upgrade's own headers are between two neighbours, so they are said again; the key and its handshake travel as they are. */
function upgradeHeaders({ headers, rawHeaders }: IncomingMessage): string[] {
  const sent = ["connection", "Upgrade", "upgrade", "websocket"];
  const kept = requestHeaders(rawHeaders, headers.connection);
  for (let i = 0; i < kept.length; i += 2) {
    const name = kept[i] as string;
    if (!/^sec-websocket-(extensions|protocol)$/i.test(name)) sent.push(name, kept[i + 1] as string);
  }
  const protocols = withoutKeyProtocol(headers["sec-websocket-protocol"] ?? "");
  if (protocols !== "") sent.push("sec-websocket-protocol", protocols);
  return sent;
}

function switchingHead({ statusMessage, rawHeaders }: IncomingMessage, id: string): string {
  const ours = ["connection", "Upgrade", "upgrade", "websocket", "x-proxy-gpt-request-id", id];
  const headers = responseHeaders(rawHeaders.map(latin1), ours);
  let text = `HTTP/1.1 ${SWITCHING} ${statusMessage || STATUS_CODES[SWITCHING]}\r\n`;
  for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`;
  return `${text}\r\n`;
}

const latin1 = (value: string): Buffer => Buffer.from(value, "latin1");
