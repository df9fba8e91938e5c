import { once } from "node:events";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { type Bus, BusError, type BusOptions } from "../../lib/bus/bus.ts";
import { openBus } from "../../lib/bus/open.ts";
import type { UpstashBridge, UpstashFault } from "../bridge/upstash.ts";
import { skippedWithoutRedis } from "../support/redis.ts";
import { random, seed } from "../support/seed.ts";
import { keysOf, newChat, newId, type ServerBackend, upstashBackend } from "./adapters.ts";
import { Reader, Recorder, until, untilAnswered } from "./reader.ts";

const OPEN = "it was down a moment ago";

const causeOf = async (work: Promise<unknown>): Promise<string> => {
  const error: unknown = await work.then(
    () => new Error("it did not fail"),
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(BusError);
  return ((error as Error).cause as Error).message;
};

describe.skipIf(skippedWithoutRedis("the bus on Upstash and its faults"))("Upstash", () => {
  let backend: ServerBackend;
  let bridge: UpstashBridge;
  beforeAll(async () => {
    backend = await upstashBackend(7);
    bridge = backend.bridge as UpstashBridge;
  });
  afterAll(() => backend?.close());
  beforeEach(() => {
    bridge.commands.length = 0;
  });
  const open = async (options: Partial<BusOptions> = {}): Promise<Bus> => {
    const bus = await backend.open(options);
    onTestFinished(() => bus.close());
    return bus;
  };

  test.each<[string, UpstashFault, RegExp]>([
    ["that is refused", "refuse", /closed|reset/],
    ["that is answered with 500", "status500", /told to fail/],
    ["that is answered with something else", "garbage", /^the answer to a command is not JSON$/],
    ["that is not answered in time", { delayMs: 60_000 }, /^no answer within 200 ms$|timeout/],
  ])("a command %s is an error without what was to be written, and was not done", async (_, fault, reason) => {
    const [bus, chat] = [await open(typeof fault === "object" ? { timeoutMs: 200 } : {}), newChat()];
    bridge.fail(fault);
    const cause = await causeOf(bus.append(chat, '"a secret"'));
    expect(cause).toMatch(reason);
    expect(cause).not.toContain("secret");
    expect(await causeOf(bus.append(chat, '"a secret"'))).toBe(OPEN);
    expect(bridge.commands).toEqual([]);
    expect(await untilAnswered(() => bus.since(chat, null))).toEqual([]);
  });

  test("an answer that was lost after the command ran: the repeated frame is in the log once", async () => {
    const [bus, chat] = [await open(), newChat()];
    const author = { generation: newId(), producer: newId(), n: 1, opens: true };
    bridge.fail("dropAnswer");
    await causeOf(bus.append(chat, "once", author));
    const again = await untilAnswered(() => bus.append(chat, "once", author));
    expect(again).toEqual({ status: "seen", id: expect.any(String), stoppedBy: null });
    expect((await bus.since(chat, null))?.map(({ id, text }) => [id, text])).toEqual([[again.id, "once"]]);
  });

  test("a reply whose taker never had the answer is taken after a while", async () => {
    const [bus, chat, generation] = [await open(), newChat(), newId()];
    await bus.take(chat, newId());
    bridge.fail("dropAnswer");
    await causeOf(bus.take(chat, generation));
    expect(await untilAnswered(() => bus.take(chat, generation))).toBe(false);
    await backend.pass(chat, 12_001);
    expect(await bus.take(chat, generation)).toBe(true);
  });

  test("a wrong token is an error, and an address may end with a slash", async () => {
    const address = { kind: "upstash", url: `${bridge.url}/`, token: bridge.token } as const;
    const [good, bad] = [await openBus(address), await openBus({ ...address, token: "other" })];
    onTestFinished(() => Promise.all([good.close(), bad.close()]).then(() => {}));
    await good.ping();
    await good.subscribe(newChat(), new Recorder());
    expect(await causeOf(bad.ping())).toMatch(/WRONGPASS/);
    const other = await openBus({ ...address, token: "other" });
    onTestFinished(() => other.close());
    expect(await causeOf(other.subscribe(newChat(), new Recorder()))).toMatch(/401/);
  });

  test.each<[string, UpstashFault]>([
    ["refused", "refuse"],
    ["answered with 500", "status500"],
    ["answered with something else", "garbage"],
    ["not acknowledged in time", { delayMs: 60_000 }],
  ])("a subscription that is %s is an error, and commands go on", async (_, fault) => {
    const [bus, chat] = [await open(typeof fault === "object" ? { timeoutMs: 1_500 } : {}), newChat()];
    const heard = new Recorder();
    bridge.fail(fault, 1, "subscription");
    expect(await causeOf(bus.subscribe(chat, heard))).not.toBe(OPEN);
    expect(await causeOf(bus.subscribe(chat, heard))).toBe(OPEN);
    expect((await bus.append(chat, "a")).status).toBe("appended");
    await untilAnswered(() => bus.subscribe(chat, heard));
    await bus.append(chat, "b");
    await until(() => heard.texts.includes("b"));
    expect([heard.texts, heard.missedTimes]).toEqual([["b"], 0]);
  });

  test.each(["end", "reset"] as const)(
    "a stream that ends (%s) is opened again, and tells that frames were missed",
    async (how) => {
      const [bus, chat, other] = [await open(), newChat(), newChat()];
      const [reader, same, elsewhere] = [new Reader(bus, chat), new Recorder(), new Recorder()];
      await Promise.all([bus.subscribe(chat, reader), bus.subscribe(chat, same), bus.subscribe(other, elsewhere)]);
      expect(bridge.streams).toBe(2);
      await bus.append(chat, "a");
      await until(() => same.texts.includes("a"));
      bridge.cut(how);
      await bus.append(chat, "b");
      await until(() => same.missedTimes === 1 && elsewhere.missedTimes === 1);
      await bus.append(chat, "c");
      await until(() => same.texts.includes("c") && reader.entries.length === 3);
      expect(reader.entries).toEqual(await bus.since(chat, null));
      expect(bridge.streams).toBe(2);
    },
  );

  test("a stream that is open and says nothing any more is renewed, and the others are left alone", async () => {
    const [bus, chat, other] = [await open(), newChat(), newChat()];
    const [reader, elsewhere] = [new Reader(bus, chat), new Recorder()];
    const subscription = await bus.subscribe(chat, reader);
    bridge.silence();
    await bus.subscribe(other, elsewhere);
    await bus.append(chat, "lost");
    await bus.append(other, "heard");
    await until(() => elsewhere.texts.includes("heard"));
    expect(reader.entries).toEqual([]);
    subscription.renew();
    await until(() => reader.entries.length === 1);
    await bus.append(chat, "heard");
    await until(() => reader.delivered === 1);
    expect(elsewhere.missedTimes).toBe(0);
    await until(() => bridge.streams === 2);
  });

  test("a stream that stays away is asked for ever more rarely", async () => {
    const [bus, chat] = [await open(), newChat()];
    const heard = new Recorder();
    await bus.subscribe(chat, heard);
    bridge.fail("status500", 4, "subscription");
    bridge.cut("end");
    await until(() => heard.missedTimes === 1);
    // The four that failed were never run; what is billed is the first and the last.
    expect(bridge.commands).toEqual(Array(2).fill(["subscribe", keysOf(chat).channel]));
  });

  test(`frames arrive whole, in whatever pieces the stream comes (SEED=${seed})`, async () => {
    const next = random(seed);
    const [bus, chat] = [await open(), newChat()];
    const heard = new Recorder();
    await bus.subscribe(chat, heard);
    onTestFinished(() => {
      bridge.pieceBytes = Number.POSITIVE_INFINITY;
    });
    const texts = ['{"reply":"ß🌍"}', "🌍🌍🌍", '"data: message,x,1"', JSON.stringify("é".repeat(3_000)), '"\u2028\u0085"'];
    const sent: string[] = [];
    for (const size of [1, 2, 3, 5, ...Array.from({ length: 10 }, () => 1 + Math.floor(next() * 40))]) {
      bridge.pieceBytes = size;
      for (const text of texts) {
        await bus.append(chat, text);
        sent.push(text);
      }
      await until(() => heard.entries.length === sent.length);
    }
    expect(heard.texts).toEqual(sent);
    bridge.pieceBytes = 16_384;
    await bus.append(chat, JSON.stringify("ß🌍x".repeat(28_000)));
    await until(() => heard.entries.length === sent.length + 1);
    expect(heard.texts.at(-1)).toBe(JSON.stringify("ß🌍x".repeat(28_000)));
    expect(heard.missedTimes).toBe(0);
  });
});

describe("bytes that a server on HTTP may send", () => {
  /** A server that answers as it is told, byte by byte. */
  const serve = async (answer: RequestListener, timeoutMs = 10_000) => {
    const server = createServer(answer);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    const { port } = server.address() as AddressInfo;
    const bus = await openBus({ kind: "upstash", url: `http://127.0.0.1:${port}`, token: "t" }, { timeoutMs });
    onTestFinished(() => bus.close());
    return { server, bus };
  };
  const { channel } = keysOf("chat");
  const ack = `data: subscribe,${channel},1`;
  const frame = `data: message,${channel},1-1 - text`;

  test("a frame in one piece with the acknowledgement of a line that was made again is told behind what may be missing", async () => {
    let streams = 0;
    const { bus } = await serve((_req, res) => {
      res.writeHead(200, { "content-type": "text/event-stream" });
      if (streams++ === 0) res.end(`${ack}\n\n`);
      else res.write(`${ack}\n\n${frame}\n\n`);
    });
    const told: string[] = [];
    await bus.subscribe("chat", { entry: ({ text }) => told.push(text), missed: () => told.push("missed") });
    await until(() => told.includes("text"));
    expect(told[0]).toBe("missed");
  });

  test.each([
    ["line ends of two characters", `${ack}\r\n\r\n${frame}\r\n\r\n`],
    ["no space after the colon", `${ack.replace(": ", ":")}\n\n${frame.replace(": ", ":")}\n\n`],
    [
      "comments, other fields and other data",
      `: hi\n\nid: 7\nevent: x\nretry: 1\ndata\ndata: \n\n${ack}\n\n: ping\n\ndata: huh\n\n${frame}\n\n`,
    ],
    ["messages of other channels", `${ack}\n\ndata: message,pg-other,1-1 - theirs\n\n${frame}\n\n`],
    ["everything at once", `${ack}\n${frame}\n`],
  ])("a stream with %s is read", async (_, bytes) => {
    const { bus } = await serve((_req, res) => void res.write(bytes));
    const heard = new Recorder();
    await bus.subscribe("chat", heard);
    await until(() => heard.entries.length === 1);
    expect(heard.entries).toEqual([{ id: "1-1", prev: null, text: "text" }]);
    expect(heard.missedTimes).toBe(0);
  });

  test.each([
    ["that ends before it begins", (end: () => void) => end(), "", 10_000, /ended/],
    ["that acknowledges something else", () => {}, "data: subscribe,pg-other,1\n\n", 400, /no answer within 400 ms/],
    ["that never ends a line", () => {}, `data: ${"x".repeat(5 << 20)}`, 10_000, /without an end/],
  ])("a stream %s is an error", async (_, end, bytes, timeoutMs, reason) => {
    const { bus } = await serve((_req, res) => {
      res.writeHead(200).write(bytes || ":\n");
      end(() => res.end());
    }, timeoutMs);
    expect(await causeOf(bus.subscribe("chat", new Recorder()))).toMatch(reason);
  });

  test("a stream that begins to be nonsense is replaced", async () => {
    let streams = 0;
    const { bus } = await serve((_req, res) => {
      res.write(`${ack}\n\n`);
      if (++streams === 1) setImmediate(() => res.write("x".repeat(5 << 20)));
    });
    const heard = new Recorder();
    await bus.subscribe("chat", heard);
    await until(() => heard.missedTimes === 1);
    expect(streams).toBe(2);
  });

  test.each([
    ["no object", "[]"],
    ["null", "null"],
    ["a number", "7"],
    ["an object without a result", "{}"],
    ["a result that is no answer", '{"result":{"a":1}}'],
    ["a result of another kind", '{"result":[["1-1"]]}'],
    ["an error that is no text", '{"error":7}'],
    ["nothing", ""],
    ["half of it", '{"result":[["1-1",["t","a sec'],
  ])("an answer that is %s is an error", async (_, body) => {
    const { bus } = await serve((req, res) => void req.resume().on("end", () => res.end(body)));
    expect(await causeOf(bus.append("chat", "text"))).not.toMatch(/sec/);
    const { bus: other } = await serve((req, res) => void req.resume().on("end", () => res.end(body)));
    expect(await causeOf(other.since("chat", null))).not.toMatch(/sec/);
  });

  test("a connection that was idle for long, which a frozen instance cannot know to be dead, is not used again", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    onTestFinished(() => void vi.useRealTimers());
    const { bus, server } = await serve((req, res) => void req.resume().on("end", () => res.end('{"result":"PONG"}')));
    let connections = 0;
    server.on("connection", () => connections++);
    const ping = async () => {
      for (let i = 0; i < 5; i++) await bus.ping();
      return connections;
    };
    const some = await ping();
    expect(await ping()).toBe(some);
    vi.advanceTimersByTime(60_000);
    expect(await ping()).toBeGreaterThan(some);
  });

  test("connections beside one that failed are not used again either", async () => {
    const dead = new Set<Socket>();
    const waiting: (() => void)[] = [];
    const { bus, server } = await serve((req, res) => {
      if (dead.has(req.socket)) return;
      const answer = () => res.end('{"result":"PONG"}');
      // The first ones are kept until each has a connection of its own.
      if (waiting.push(answer) === 4) for (const go of waiting) go();
      else if (waiting.length > 4) answer();
    }, 1_500);
    const known = new Set<Socket>();
    server.on("connection", (socket) => known.add(socket));
    await Promise.all(Array.from({ length: 4 }, () => bus.ping()));
    // The driver has them back for use a turn after their answers.
    await new Promise(setImmediate);
    expect(known.size).toBe(4);
    for (const socket of known) dead.add(socket);
    await causeOf(bus.ping());
    await untilAnswered(() => bus.ping());
    await Promise.all(Array.from({ length: 4 }, () => bus.ping()));
  });

  test("what is known of the database's state goes with the next command", async () => {
    const told: unknown[] = [];
    const { bus } = await serve((req, res) => {
      told.push(req.headers["upstash-sync-token"]);
      res.setHeader("upstash-sync-token", `state-${told.length}`);
      req.resume().on("end", () => res.end('{"result":"PONG"}'));
    });
    for (let i = 0; i < 3; i++) await bus.ping();
    expect(told).toEqual(["", "state-1", "state-2"]);
  });
});
