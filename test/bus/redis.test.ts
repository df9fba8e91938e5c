import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { type Bus, BusError } from "../../lib/bus/bus.ts";
import { openBus } from "../../lib/bus/open.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { newChat, newId, redisBackend, type ServerBackend } from "./adapters.ts";
import { Recorder, until, untilAnswered } from "./reader.ts";

const printed: unknown[] = [];
beforeEach(() => {
  printed.length = 0;
  for (const method of ["log", "info", "warn", "error"] as const) {
    vi.spyOn(console, method).mockImplementation((...words) => void printed.push(...words));
  }
});
afterEach(() => {
  vi.restoreAllMocks();
  expect(printed).toEqual([]);
});

const open = async (url: string, timeoutMs = 5_000): Promise<Bus> => {
  const bus = await openBus({ kind: "redis", url }, { timeoutMs });
  onTestFinished(() => bus.close());
  return bus;
};
const causeOf = async (work: Promise<unknown>): Promise<string> => {
  const error: unknown = await work.then(
    () => new Error("it did not fail"),
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(BusError);
  return ((error as Error).cause as Error).message;
};

describe.skipIf(skippedWithoutRedis("the bus on Redis and its connections"))("Redis", () => {
  let backend: ServerBackend;
  beforeAll(async () => {
    backend = await redisBackend(6);
  });
  afterAll(() => backend?.close());

  /** A user of the server that is there for one test. */
  const newUser = async (...rules: string[]) => {
    const name = `bus-${newId()}`;
    await backend.admin.acl("SETUSER", name, "on", ">a pass:word", "~*", "&*", "+@all", ...rules);
    onTestFinished(() => backend.admin.acl("DELUSER", name).then(() => {}));
    const url = new URL(`${redisUrl}/6`);
    url.username = name;
    url.password = "a pass:word";
    const connections = async () => {
      const lines = String(await backend.admin.client("LIST")).split("\n");
      return lines.filter((line) => line.includes(`user=${name} `)).length;
    };
    return { url: url.href, name, connections };
  };

  test("a bus has one connection for commands and one for all its subscriptions, each made when it is needed", async () => {
    const { url, connections } = await newUser();
    const bus = await open(url);
    expect(await connections()).toBe(0);
    const chats = Array.from({ length: 20 }, () => newChat());
    await Promise.all(chats.map((chat) => bus.append(chat, "a")));
    expect(await connections()).toBe(1);
    await Promise.all(chats.map((chat) => bus.subscribe(chat, new Recorder())));
    await Promise.all(chats.map((chat) => bus.append(chat, "b")));
    expect(await connections()).toBe(2);
    await bus.close();
    await until(async () => (await connections()) === 0);
  });

  test("a renewal replaces the connection of all subscriptions, and not that of commands", async () => {
    const { url, connections } = await newUser();
    const bus = await open(url);
    const listeners = Array.from({ length: 5 }, () => new Recorder());
    const [subscription] = await Promise.all(listeners.map((listener) => bus.subscribe(newChat(), listener)));
    await bus.ping();
    const before = String(await backend.admin.client("LIST"));
    subscription?.renew();
    await until(() => listeners.every(({ missedTimes }) => missedTimes === 1));
    await until(async () => (await connections()) === 2);
    const idsOf = (list: string) => [...list.matchAll(/^id=(\d+) .* user=bus-/gm)].map(([, id]) => id);
    expect(idsOf(String(await backend.admin.client("LIST"))).filter((id) => idsOf(before).includes(id))).toHaveLength(1);
  });

  test("a connection that the server ends is made again", async () => {
    const { url, name, connections } = await newUser();
    const [bus, chat] = [await open(url), newChat()];
    const heard = new Recorder();
    await bus.subscribe(chat, heard);
    await bus.ping();
    await backend.admin.client("KILL", "USER", name);
    await until(() => heard.missedTimes === 1);
    await untilAnswered(() => bus.append(chat, "a"));
    await until(() => heard.texts.includes("a"));
    expect(await connections()).toBe(2);
  });

  test("a subscription that the server refuses is an error, and commands go on", async () => {
    const { url } = await newUser("-subscribe");
    const [bus, chat] = [await open(url), newChat()];
    expect(await causeOf(bus.subscribe(chat, new Recorder()))).toMatch(/NOPERM/);
    expect((await bus.append(chat, "a")).status).toBe("appended");
  });

  test("a command that the server refuses is an error without what was to be written", async () => {
    const { url } = await newUser("-evalsha");
    const bus = await open(url);
    expect(await causeOf(bus.append(newChat(), '"a secret"'))).toMatch(/^NOPERM(?!.*secret)/);
  });

  test("wrong credentials are an error, and are in no message", async () => {
    const { url, name } = await newUser();
    const wrong = new URL(url);
    wrong.password = "guessed";
    const cause = await causeOf((await open(wrong.href)).ping());
    expect(cause).toMatch(/WRONGPASS/);
    expect(cause).not.toMatch(new RegExp(`guessed|${name}`));
    expect(await causeOf((await open(wrong.href)).subscribe(newChat(), new Recorder()))).toMatch(/WRONGPASS/);
  });

  test("a database that the address names is the one that is used", async () => {
    const [six, seven, chat] = [await open(`${redisUrl}/6`), await open(`${redisUrl}/5`), newChat()];
    await six.append(chat, "a");
    expect(await seven.since(chat, null)).toEqual([]);
    expect(await six.since(chat, null)).toHaveLength(1);
  });
});

describe("an address with no Redis behind it", () => {
  const listen = async (greeting: string | null) => {
    const server = createServer((socket) => {
      socket.on("error", () => {});
      if (greeting !== null) socket.on("data", () => socket.write(greeting));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    return { server, url: `redis://127.0.0.1:${port}` };
  };

  test.each([
    ["another protocol", "HTTP/1.1 400 Bad Request\r\n\r\n"],
    ["an answer of another kind", ":7\r\n"],
    ["a list that is no answer", "*1\r\n*0\r\n"],
    ["nothing", ""],
  ])("%s is an error to every method", async (_, greeting) => {
    const { server, url } = await listen(greeting);
    onTestFinished(() => void server.close());
    for (const ask of [
      (bus: Bus) => bus.append("chat", "a"),
      (bus: Bus) => bus.since("chat", null),
      (bus: Bus) => bus.take("chat", newId()),
      (bus: Bus) => bus.stop("chat", newId(), "ann"),
      (bus: Bus) => bus.ping(),
      (bus: Bus) => bus.subscribe("chat", new Recorder()),
    ]) {
      const bus = await openBus({ kind: "redis", url }, { timeoutMs: 200 });
      await causeOf(ask(bus));
      await bus.close();
    }
  });

  test("a port that nobody listens on, and a name that nobody has, are errors", async () => {
    const { server, url } = await listen(null);
    server.close();
    await once(server, "close");
    expect(await causeOf((await open(url)).ping())).toMatch(/ECONNREFUSED/);
    expect(await causeOf((await open(url)).subscribe("chat", new Recorder()))).toMatch(/ECONNREFUSED/);
    await causeOf((await open("redis://no-such-host.invalid")).ping());
  });
});
