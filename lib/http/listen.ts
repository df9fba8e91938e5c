import { createServer, type IncomingMessage, type Server, ServerResponse } from "node:http";
import { Server as NetServer, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Deps } from "../deps.ts";
import { describeError } from "../log.ts";
import { attach, type Listener } from "./attach.ts";
import { type FunctionSpec, isRelay, type RawRequest } from "./endpoint.ts";
import { ApiError, type ErrorCode } from "./error.ts";
import { BODY_WITHIN_MS } from "./input.ts";
import { hangUp, sendError, sendErrorByHand } from "./raw.ts";
import { beginRequest, endRequest } from "./request-log.ts";
import { streamFinder } from "./routes.ts";
import { createResponder } from "./serve.ts";
import { serveStream } from "./stream.ts";
import { createViewers, type StreamLimits } from "./viewers.ts";

/** How long replies may take to finish once the instance was told to stop; the platform kills it after ten seconds. */
const DRAIN_MS = 8_000;
const SETTLE_MS = 1_500;
/** How much of that it takes to keep what came of a reply that has not finished. */
const KEEP_MS = 2_000;
/** The most that is read of a body behind a request to upgrade to a protocol that we do not speak. */
const UPGRADE_BODY = 262_144;
const NO_BODY = Buffer.alloc(0);

export function createListener(functions: readonly FunctionSpec[], deps: Deps, limits: Partial<StreamLimits> = {}): Listener {
  const viewers = createViewers(limits);
  deps.telemetry?.countStreams(() => viewers.size);
  const respond = createResponder(functions, deps, viewers);
  const findRelay = relayFinder(functions, deps);
  const findStream = streamFinder(functions);
  const running = new Set<ServerResponse>();
  /** Connections that Node has handed over; its server no longer closes them. */
  const upgraded = new Set<Duplex>();
  let stopping = false;
  /** Requests whose events are not complete; that is later than their connections' ends. */
  let unfinished = 0;
  let finished = () => {};
  const leave = () => {
    if (--unfinished === 0) finished();
  };
  const serve = (work: Promise<void>, connection: { destroy(): void }) => {
    unfinished++;
    const fail = (error: unknown) => {
      deps.log({ severity: "ERROR", message: "request failed", ...describeError(error) });
      // Whoever waits for the answer is told that there will be none.
      connection.destroy();
      leave();
    };
    void work.then(leave, fail);
  };

  const refuse = (req: IncomingMessage, res: ServerResponse, code: ErrorCode) => {
    const error = new ApiError(code);
    const begun = beginRequest(req, deps);
    sendError(req, res, error, begun.id, deps);
    endRequest(begun, { what: "refused", userId: null, status: error.status, code }, deps);
  };
  const request = (req: IncomingMessage, res: ServerResponse) => {
    if (stopping) {
      res.shouldKeepAlive = false;
      // A connection that was open before and brings its first request came in time: no other instance is asked instead.
      if (req.socket.bytesWritten > 0) return refuse(req, res, "stopping");
    }
    running.add(res);
    res.once("close", () => running.delete(res));
    if (!isSound(req)) return refuse(req, res, "bad_target");
    const raw = findRelay(req);
    if (raw) return serve(raw.relay.request(raw, res), res);
    if (AMBIGUOUS.test(req.url ?? "")) return refuse(req, res, "bad_target");
    const entry = findStream(req);
    if (entry) return serve(serveStream({ entry, req, res, head: null }, viewers, deps), res);
    serve(respond(req, res), res);
  };
  const upgrade = async (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    upgraded.add(socket);
    socket.once("close", () => upgraded.delete(socket));
    socket.on("error", () => socket.destroy());
    const raw = isSound(req) && !stopping ? findRelay(req) : null;
    const webSocket = req.headers.upgrade?.toLowerCase() === "websocket";
    if (raw && webSocket) return raw.relay.upgrade(raw, socket, head);
    const res = new ServerResponse(req);
    res.assignSocket(socket as Socket);
    res.shouldKeepAlive = false;
    res.once("finish", () => hangUp(socket));
    const entry = webSocket && isSound(req) && !stopping ? findStream(req) : null;
    if (entry) {
      Object.assign(req, { rawBody: NO_BODY });
      return serveStream({ entry, req, res, head }, viewers, deps);
    }
    // Anyone may offer an upgrade (`curl --http2`); one that is not taken is an ordinary request.
    const body = await readBehind(req, socket, head);
    // Half a body must not be taken for a whole one.
    if (socket.destroyed) return;
    if (body === null) return refuse(req, res, "too_large");
    // Nobody else would tell that there is room again on this connection, or that the client left.
    socket.on("drain", () => res.emit("drain"));
    socket.once("end", () => socket.destroy()).resume();
    if (stopping) return refuse(req, res, "stopping");
    request(Object.assign(req, { rawBody: body, complete: true }), res);
  };
  return {
    request,
    upgrade: (req, socket, head) => serve(upgrade(req, socket, head), socket),
    clientError: (error, socket) => {
      const current = [...running].find((res) => res.socket === socket);
      answerUnparsable(error, socket, current, deps);
    },
    drain: async (server, deadlineMs = DRAIN_MS) => {
      stopping = true;
      viewers.rotate();
      deps.generations.endWithin(deadlineMs - KEEP_MS);
      for (const res of running) res.shouldKeepAlive = false;
      // To an HTTP server a connection is idle once its answer was ended, even if it is still being read: its own `close` comes last.
      const closed = new Promise<void>((resolve) => NetServer.prototype.close.call(server, () => resolve()));
      const idle = setInterval(() => [...running].some(isGoingOut) || server.closeIdleConnections(), 50);
      const deadline = setTimeout(() => {
        server.closeAllConnections();
        for (const socket of upgraded) socket.destroy();
      }, deadlineMs);
      await closed;
      server.close();
      clearInterval(idle);
      clearTimeout(deadline);
      if (unfinished > 0) {
        const last = new Promise<void>((resolve) => {
          finished = resolve;
        });
        await Promise.race([last, new Promise((resolve) => setTimeout(resolve, SETTLE_MS).unref())]);
      }
      await deps.close(SETTLE_MS);
    },
  };
}

const isGoingOut = ({ writableEnded, writableFinished }: ServerResponse) => writableEnded && !writableFinished;

/** A server of our own, for one machine. Resolves when it listens; throws what `listen` throws. */
export async function listen(listener: Listener, { port, address }: { port: number; address: string }): Promise<Server> {
  const server = createServer();
  attach(server, listener);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port, host: address, backlog: 4096 }, resolve);
  });
  return server;
}

function relayFinder(functions: readonly FunctionSpec[], deps: Deps): (req: IncomingMessage) => RawRequest | null {
  const relays = functions.flatMap(({ name, endpoints }) =>
    endpoints.filter(isRelay).map((relay) => ({ relay, function: name })),
  );
  return (req) => {
    const { url = "/" } = req;
    for (const found of relays) {
      if (url.startsWith(found.relay.prefix)) return { relay: found.relay, target: url, req, deps };
      const below = `/${found.function}${found.relay.prefix}`;
      if (url.startsWith(below)) return { relay: found.relay, target: url.slice(found.function.length + 1), req, deps };
    }
    return null;
  };
}

/** What a URL parser takes for another path than the one received: dot segments, backslashes, a fragment. */
const AMBIGUOUS = /^[^?]*(?:[\\#]|\/(?:\.|%2e){1,2}(?:[/?]|$))/i;

/** HTTP/1, a target in origin form and one Host: anything else could mean another place to a reader behind us. */
function isSound({ url = "", rawHeaders, httpVersionMajor, httpVersionMinor }: IncomingMessage): boolean {
  if (!url.startsWith("/") || httpVersionMajor !== 1) return false;
  let hosts = 0;
  for (let i = 0; i < rawHeaders.length; i += 2)
    if (rawHeaders[i]?.length === 4 && rawHeaders[i]?.toLowerCase() === "host") hosts++;
  return hosts === 1 || (hosts === 0 && httpVersionMinor === 0);
}

/** The body of a request whose connection Node has already handed over; null when it is too large or of unknown length. */
async function readBehind({ headers }: IncomingMessage, socket: Duplex, head: Buffer): Promise<Buffer | null> {
  const length = Number(headers["content-length"] ?? 0);
  if (headers["transfer-encoding"] !== undefined || length > UPGRADE_BODY) return null;
  const chunks = [head];
  let size = head.length;
  if (size < length) {
    const late = setTimeout(() => socket.destroy(), BODY_WITHIN_MS);
    await new Promise<void>((resolve) => {
      socket.on("data", (chunk: Buffer) => {
        if (size < length) chunks.push(chunk);
        size += chunk.length;
        if (size >= length) resolve();
      });
      // Half a request has no answer.
      socket.once("end", () => size < length && socket.destroy());
      socket.once("close", resolve);
    });
    clearTimeout(late);
  }
  return Buffer.concat(chunks).subarray(0, length);
}

/** What Node's parser refused has no request; the answer is written by hand, and the connection ends. */
function answerUnparsable(
  error: Error & { code?: string },
  socket: Duplex,
  current: ServerResponse | undefined,
  deps: Deps,
): void {
  // Node tells it again with every piece that still arrives.
  if (socket.writableEnded) return;
  const gone = error.code === "ECONNRESET" || (current && error.code === "HPE_INVALID_EOF_STATE");
  if (gone || !socket.writable || (current?.headersSent && !current.req.complete)) {
    socket.destroy();
  } else if (current?.req.complete) {
    if (!current.shouldKeepAlive) return;
    // It came behind a whole request, which has its answer first.
    current.shouldKeepAlive = false;
    current.once("finish", () => hangUp(socket));
  } else {
    sendErrorByHand(socket, new ApiError(error.code === "HPE_HEADER_OVERFLOW" ? "header_too_large" : "bad_request"), deps);
  }
}
