import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";

/**
 * `dropAnswer` runs the request and then destroys the connection. `refuse` destroys the connection, `status500` and `garbage`
 * (200, and no JSON) answer, all without running anything. `delayMs` waits before running, `answerAfterMs` behind it.
 */
export type UpstashFault = "dropAnswer" | "refuse" | "status500" | "garbage" | { delayMs: number } | { answerAfterMs: number };

export type UpstashBridge = {
  url: string;
  token: string;
  /** Every command that would be billed, oldest first: each of a pipeline, and a subscription as one. Tests may empty it. */
  commands: string[][];
  /** How many subscription streams are open. */
  readonly streams: number;
  /** Into pieces of how many bytes streams cut what they send; whole by default. */
  pieceBytes: number;
  /** Applies the fault to the next `count` requests of the kind, after those already promised to an earlier call. */
  fail(fault: UpstashFault, count?: number, kind?: "command" | "subscription"): void;
  /** Ends every open subscription, cleanly or with a reset. */
  cut(how: "end" | "reset"): void;
  /** Open subscriptions send nothing any more and stay open. New ones are served. */
  silence(): void;
  close(): Promise<void>;
};

/**
 * Upstash's REST protocol, served from a real Redis, as `@upstash/redis` 1.39 speaks it: commands as JSON or in the path,
 * pipelines, transactions and subscriptions. Requests use the database that `redisUrl` names. What scripts call is not billed
 * apart here; whether Upstash does so is not documented.
 */
export async function startUpstashBridge(redisUrl: string): Promise<UpstashBridge> {
  const redis = new Redis(redisUrl, { protocol: 2 });
  const faults = { command: [] as UpstashFault[], subscription: [] as UpstashFault[] };
  const streams = new Set<Stream>();
  const closing = new AbortController();
  const token = "bridge-token";

  const execute = (command: unknown[]): Promise<unknown> => {
    const [name = "", ...args] = command.map(argument);
    if (forbidden.has(name.toLowerCase())) throw new Refused(400, `ERR Command is not available: '${name}'`);
    bridge.commands.push([name, ...args]);
    return redis.callBuffer(name, ...args);
  };
  const run = async ({ path, body, encode }: Call): Promise<unknown> => {
    if (path[0] === "pipeline") {
      const settled = await Promise.allSettled(commandsIn(body).map(async (command) => execute(command)));
      return settled.map((it) => (it.status === "fulfilled" ? { result: encode(it.value) } : { error: errorOf(it.reason) }));
    }
    if (path[0] === "multi-exec") {
      const commands = commandsIn(body).map((command) => command.map(argument));
      bridge.commands.push(...commands);
      const multi = redis.multi();
      for (const [name = "", ...args] of commands) multi.callBuffer(name, ...args);
      const results = (await multi.exec()) ?? [];
      return results.map(([error, value]) => (error ? { error: errorOf(error) } : { result: encode(value) }));
    }
    const command = path.length > 0 ? [...path, ...(body === "" ? [] : [body])] : jsonIn(body);
    if (!Array.isArray(command) || command.length === 0) throw new Refused(400, "ERR empty command");
    return { result: encode(await execute(command)) };
  };
  const answer = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    const call = await callOf(req);
    if (call.token !== token) throw new Refused(401, "WRONGPASS invalid or missing auth token");
    if (!methods.has(String(req.method))) throw new Refused(405, "ERR method is not allowed");
    const isStream = call.path[0] === "subscribe" || call.path[0] === "psubscribe";
    const fault = faults[isStream ? "subscription" : "command"].shift();
    if (fault === "refuse") return void req.socket.destroy();
    if (fault === "status500") throw new Refused(500, "ERR told to fail");
    if (fault === "garbage") return void res.writeHead(200, { "content-type": "text/html" }).end("<html>not Redis</html>");
    const wait = (ms: number) => sleep(ms, undefined, { signal: closing.signal });
    if (typeof fault === "object" && "delayMs" in fault) await wait(fault.delayMs);
    if (isStream) {
      bridge.commands.push(call.path);
      return serve(res, call.path);
    }
    const result = await run(call);
    if (typeof fault === "object" && "answerAfterMs" in fault) await wait(fault.answerAfterMs);
    if (fault === "dropAnswer") req.socket.destroy();
    else send(res, 200, result);
  };
  const serve = async (res: ServerResponse, [kind, ...channels]: string[]): Promise<void> => {
    const stream = new Stream(res, redis, () => bridge.pieceBytes);
    streams.add(stream);
    res.on("close", () => streams.delete(stream));
    await stream.begin(kind as "subscribe" | "psubscribe", channels);
  };

  const server = createServer((req, res) => {
    answer(req, res).catch((error) => {
      if (res.headersSent) res.destroy();
      else send(res, error instanceof Refused ? error.status : 400, { error: errorOf(error) });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;

  const bridge: UpstashBridge = {
    url: `http://127.0.0.1:${port}`,
    token,
    commands: [],
    get streams() {
      return streams.size;
    },
    pieceBytes: Number.POSITIVE_INFINITY,
    fail: (fault, count = 1, kind = "command") => {
      faults[kind].push(...Array<UpstashFault>(count).fill(fault));
    },
    cut: (how) => {
      for (const stream of streams) stream.end(how);
    },
    silence: () => {
      for (const stream of streams) stream.isSilent = true;
    },
    close: async () => {
      closing.abort();
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
      redis.disconnect();
    },
  };
  return bridge;
}

type Call = { path: string[]; token: string | null; body: string; encode(value: unknown): unknown };

class Refused extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** What needs a connection of its own, which a request has not. */
const forbidden = new Set(
  "subscribe psubscribe ssubscribe unsubscribe monitor blpop brpop blmove bzpopmin bzpopmax multi exec watch client select".split(
    " ",
  ),
);
const methods = new Set(["GET", "HEAD", "POST", "PUT"]);

/** One subscription: server-sent events, from a connection to Redis of its own. */
class Stream {
  isSilent = false;
  readonly #res: ServerResponse;
  readonly #redis: Redis;
  readonly #pieceBytes: () => number;
  /** What is still to be sent follows what was sent before, piece by piece. */
  #sent = Promise.resolve();

  constructor(res: ServerResponse, redis: Redis, pieceBytes: () => number) {
    this.#res = res;
    this.#redis = redis.duplicate();
    this.#pieceBytes = pieceBytes;
    this.#redis.on("message", (...words) => this.#write("message", ...words));
    this.#redis.on("pmessage", (...words) => this.#write("pmessage", ...words));
    res.on("close", () => this.#redis.disconnect());
  }

  async begin(kind: "subscribe" | "psubscribe", channels: string[]): Promise<void> {
    this.#res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
    this.#res.socket?.setNoDelay(true);
    for (const channel of channels) this.#write(kind, channel, String(await this.#redis[kind](channel)));
  }

  end(how: "end" | "reset"): void {
    if (how === "end") this.#res.end();
    else this.#res.socket?.resetAndDestroy();
  }

  /** As it is: a message of two lines loses its second, as on Upstash. */
  #write(...words: string[]): void {
    if (this.isSilent) return;
    const bytes = Buffer.from(`data: ${words.join(",")}\n\n`);
    const size = this.#pieceBytes();
    if (size === Number.POSITIVE_INFINITY) this.#res.write(bytes);
    else this.#sent = this.#sent.then(() => this.#pieces(bytes, size));
  }

  async #pieces(bytes: Buffer, size: number): Promise<void> {
    for (let at = 0; at < bytes.length; at += size) {
      await new Promise((resolve) => this.#res.write(bytes.subarray(at, at + size), resolve));
      await new Promise(setImmediate);
    }
  }
}

async function callOf(req: IncomingMessage): Promise<Call> {
  const url = new URL(String(req.url), "http://bridge");
  const chunks: Buffer[] = [];
  for await (const chunk of req) chunks.push(chunk);
  const query = [...url.searchParams].filter(([name]) => name !== "_token");
  const base64 = req.headers["upstash-encoding"] === "base64";
  return {
    path: [...url.pathname.split("/").filter(Boolean).map(decodeURIComponent), ...query.flat().filter(Boolean)],
    token: req.headers.authorization?.replace(/^Bearer /i, "") ?? url.searchParams.get("_token"),
    body: Buffer.concat(chunks).toString("utf8"),
    encode: (value) => encoded(value, base64),
  };
}

function jsonIn(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    throw new Refused(400, "ERR failed to parse command");
  }
}

function commandsIn(body: string): unknown[][] {
  const commands = jsonIn(body);
  if (!Array.isArray(commands) || !commands.every(Array.isArray)) throw new Refused(400, "ERR failed to parse pipeline");
  return commands;
}

const argument = (value: unknown): string => (typeof value === "object" ? JSON.stringify(value) : String(value));

/** Strings as text or base64; `OK` is never encoded, and integers and nulls are JSON's. */
function encoded(value: unknown, base64: boolean): unknown {
  if (Array.isArray(value)) return value.map((item) => encoded(item, base64));
  if (!Buffer.isBuffer(value)) return value;
  const text = value.toString("utf8");
  return base64 && text !== "OK" ? value.toString("base64") : text;
}

const errorOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function send(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}
