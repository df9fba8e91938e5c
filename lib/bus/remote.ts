import { Breaker, errorText, Misfit } from "./breaker.ts";
import { type Appended, type Bus, BusError, type BusOptions } from "./bus.ts";
import { Channels, type Dial } from "./channels.ts";
import { assertFrame, chained, isEntryId } from "./entry.ts";
import { keysOf } from "./keys.ts";
import { APPEND, CLEAR, type Script, TAKE } from "./script.ts";

/** What differs between one way to a Redis and another. */
export type Server = {
  kind: "redis" | "upstash";
  /** Sends one command, once, and resolves with its answer. */
  send(command: readonly string[]): Promise<unknown>;
  dial: Dial;
  /** An answer did not come in time. */
  late(): void;
  close(): Promise<void>;
};

const STATUSES = new Set(["appended", "seen", "taken", "forgotten"]);

/** The bus on a Redis, however it is reached. Every call is one command, but for the first of a script. */
export function openRemote(server: Server, options: BusOptions): Bus {
  const { leaseMs, logMs, logLength, timeoutMs, onError } = options;
  const breaker = new Breaker(timeoutMs, server.late);
  const channels = new Channels(server.dial, timeoutMs, onError);
  const running = new Set<Promise<unknown>>();
  let isClosed = false;

  const assertUp = () => {
    if (isClosed) throw new BusError(new Error("it is closed"));
  };
  /** Runs what is to be counted as one question, and checks the shape of its answer. */
  const ask = async <T>(question: () => Promise<unknown>, answer: (reply: unknown) => T): Promise<T> => {
    assertUp();
    const asked = breaker.run(async () => answer(await question().catch(asMisfit)));
    running.add(asked);
    return asked.finally(() => running.delete(asked));
  };
  const run = async ({ sha, lua }: Script, keys: string[], args: string[]): Promise<unknown> => {
    const rest = [String(keys.length), ...keys, ...args];
    try {
      return await server.send(["EVALSHA", sha, ...rest]);
    } catch (error) {
      if (!errorText(error).includes("NOSCRIPT")) throw error;
      return server.send(["EVAL", lua, ...rest]);
    }
  };

  return {
    kind: server.kind,
    append: async (chat, text, author) => {
      assertFrame(text, author);
      const { log, channel, reply, stop } = keysOf(chat);
      const keys = author ? [log, reply(author.generation), stop(author.generation)] : [log];
      const args = [channel, text ?? "", String(logMs), String(logLength)];
      if (author) args.push(author.producer, String(author.n), author.opens ? "1" : "0", String(leaseMs));
      return ask(() => run(APPEND, keys, args), appended);
    },
    since: async (chat, after) => {
      if (after !== null && !isEntryId(after)) return null;
      const entries = await ask(() => server.send(["XRANGE", keysOf(chat).log, after ?? "-", "+"]), logEntries);
      if (after === null) return chained(entries, null);
      const [first, ...rest] = entries;
      return first?.id === after ? chained(rest, after) : null;
    },
    subscribe: async (chat, listener) => {
      assertUp();
      breaker.assertClosed();
      return channels.subscribe(keysOf(chat).channel, listener);
    },
    stop: (chat, generation, userId) => {
      const command = ["SET", keysOf(chat).stop(generation), userId, "NX", "PX", String(logMs)];
      return ask(() => server.send(command), oneOf<"OK" | null>("OK", null)).then(() => {});
    },
    take: async (chat, generation) => {
      const keys = [keysOf(chat).reply(generation)];
      return (await ask(() => run(TAKE, keys, [String(logMs), String(leaseMs)]), oneOf(0, 1))) === 1;
    },
    clear: async (chat, generations, text) => {
      assertFrame(text, undefined);
      const { log, channel, reply } = keysOf(chat);
      await ask(() => run(CLEAR, [log, ...generations.map(reply)], [channel, text, String(logMs)]), oneOf(1));
    },
    ping: () => ask(() => server.send(["PING"]), oneOf("PONG")).then(() => {}),
    close: async () => {
      isClosed = true;
      channels.close();
      await Promise.allSettled(running);
      await server.close();
    },
  };
}

/** An error about one key is an answer; it says nothing against the server. */
function asMisfit(error: unknown): never {
  const text = errorText(error);
  throw text.includes("WRONGTYPE") ? new Misfit(text) : error;
}

function appended(reply: unknown): Appended {
  const [status, id, stoppedBy] = Array.isArray(reply) ? reply : [];
  if (!STATUSES.has(status) || !isTextOrNull(id) || !isTextOrNull(stoppedBy)) throw new Misfit("no answer to an append");
  return { status, id, stoppedBy };
}

function logEntries(reply: unknown): { id: string; text: string }[] {
  if (!Array.isArray(reply)) throw new Misfit("no log");
  return reply.map((entry) => {
    const [id, fields] = Array.isArray(entry) ? entry : [];
    const [, text] = Array.isArray(fields) ? fields : [];
    if (typeof id !== "string" || typeof text !== "string") throw new Misfit("not an entry of a log");
    return { id, text };
  });
}

const oneOf =
  <const T>(...expected: T[]) =>
  (reply: unknown): T => {
    if (!expected.includes(reply as T)) throw new Misfit("an unexpected answer");
    return reply as T;
  };

const isTextOrNull = (value: unknown): value is string | null => value === null || typeof value === "string";
