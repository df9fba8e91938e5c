import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { type Author, BUS_OPTIONS, type Bus, BusError, type BusOptions } from "../../lib/bus/bus.ts";
import { skippedWithoutRedis } from "../support/redis.ts";
import { keysOf, newChat, newId, redisBackend, type ServerBackend, upstashBackend } from "./adapters.ts";
import { type CommandLog, listenToCommands } from "./commands.ts";
import { Recorder, until } from "./reader.ts";

/** What the two buses on a server leave there, what they ask of it, and how they take what others left. */
describe.skipIf(skippedWithoutRedis("what the bus leaves on a server"))("on the server", () => {
  serverSuite("Redis", () => redisBackend(10));
  serverSuite("Upstash", () => upstashBackend(11));
});

function serverSuite(name: string, start: () => Promise<ServerBackend>): void {
  describe(name, () => {
    let backend: ServerBackend;
    let heard: CommandLog;
    beforeAll(async () => {
      backend = await start();
      heard = await listenToCommands(backend);
    });
    afterAll(async () => {
      heard?.close();
      await backend?.close();
    });
    beforeEach(async () => {
      await backend.admin.flushdb();
    });

    const open = async (options: Partial<BusOptions> = {}): Promise<Bus> => {
      const bus = await backend.open(options);
      onTestFinished(() => bus.close());
      return bus;
    };
    /** Uses all that a bus can do in one chat. */
    const useAll = async (bus: Bus, chat: string, generation: string) => {
      const author = { generation, producer: newId(), n: 1, opens: true };
      await bus.append(chat, "plain");
      const { id } = await bus.append(chat, "frame", author);
      await bus.append(chat, null, author);
      await bus.stop(chat, generation, "ann");
      await bus.since(chat, id);
      await bus.take(chat, generation);
      await bus.take(chat, `${generation}:other`);
      await bus.subscribe(chat, new Recorder());
    };

    test("every key has a time to live, and is named for the hash of the chat's id", async () => {
      const bus = await open();
      const [chat, generation] = [newChat(), newId()];
      await useAll(bus, chat, generation);
      const { log, reply, stop, channel } = keysOf(chat, generation);
      const keys = await backend.admin.keys("*");
      const named = [log, reply, stop];
      expect(keys.filter((key) => named.includes(key)).sort()).toEqual(named.sort());
      expect(keys.filter((key) => !named.includes(key))).toEqual([expect.stringMatching(/^pg:\{[\w-]{22}\}:gen:[\w-]{22}$/)]);
      for (const key of keys) {
        const left = await backend.admin.pttl(key);
        expect([key, left > 0, left <= (key === reply ? BUS_OPTIONS.leaseMs : BUS_OPTIONS.logMs)]).toEqual([key, true, true]);
      }
      expect(await backend.admin.pubsub("CHANNELS", "*")).toContain(channel);
      // No part of an id that somebody chose is in a key, a channel or an address.
      const asked = JSON.stringify(await heard.all());
      for (const raw of [chat, encodeURIComponent(chat), chat.slice(-36), ":other"]) expect(asked).not.toContain(raw);
    });

    test("every call is one command, and a viewer who waits costs none", async () => {
      const bus = await open();
      const [chat, generation] = [newChat(), newId()];
      await bus.append(chat, "first");
      await bus.take(chat, newId());
      const author: Author = { generation, producer: newId(), n: 2, opens: true };
      const cost = async (work: () => Promise<unknown>): Promise<string[]> => {
        await heard.all();
        heard.clear();
        await work();
        return (await heard.all()).map(([command = ""]) => command.toLowerCase());
      };
      expect(await cost(() => bus.append(chat, "a"))).toEqual(["evalsha"]);
      expect(await cost(() => bus.append(chat, "b", author))).toEqual(["evalsha"]);
      expect(await cost(() => bus.append(chat, "b", author))).toEqual(["evalsha"]);
      expect(await cost(() => bus.append(chat, null, author))).toEqual(["evalsha"]);
      expect(await cost(() => bus.since(chat, null))).toEqual(["xrange"]);
      expect(await cost(() => bus.since(chat, "no id"))).toEqual([]);
      expect(await cost(() => bus.stop(chat, generation, "ann"))).toEqual(["set"]);
      expect(await cost(() => bus.take(chat, generation))).toEqual(["evalsha"]);
      expect(await cost(() => bus.ping())).toEqual(["ping"]);
      const listener = new Recorder();
      const [subscription] = await Promise.all([bus.subscribe(chat, listener), cost(async () => {})]);
      const others = await cost(() => Promise.all([bus.subscribe(chat, listener), bus.subscribe(chat, listener)]));
      expect(others).toEqual([]);
      expect(await cost(() => bus.subscribe(newChat(), listener).then((other) => other.close()))).toContain("subscribe");
      subscription.close();
    });

    test("a server that does not know the scripts yet is taught them", async () => {
      const [bus, chat] = [await open(), newChat()];
      await bus.append(chat, "a");
      await bus.take(chat, newId());
      await backend.admin.script("FLUSH");
      expect((await bus.append(chat, "b")).status).toBe("appended");
      expect(await bus.take(chat, newId())).toBe(true);
      expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual(["a", "b"]);
    });

    test("the last one who leaves a chat ends its subscription, and closing the bus ends all", async () => {
      const [bus, chat, other] = [await open(), newChat(), newChat()];
      const listening = async () => {
        const answer = await backend.admin.pubsub("NUMSUB", keysOf(chat).channel, keysOf(other).channel);
        return [answer[1], answer[3]];
      };
      const [one, two] = [await bus.subscribe(chat, new Recorder()), await bus.subscribe(chat, new Recorder())];
      await bus.subscribe(other, new Recorder());
      expect(await listening()).toEqual([1, 1]);
      one.close();
      await bus.ping();
      expect(await listening()).toEqual([1, 1]);
      two.close();
      await until(async () => (await listening())[0] === 0);
      expect(await listening()).toEqual([0, 1]);
      // The channel is free for whoever comes next, in whatever order it is left and taken again.
      for (let i = 0; i < 5; i++) (await bus.subscribe(chat, new Recorder())).close();
      const listener = new Recorder();
      await bus.subscribe(chat, listener);
      await bus.append(chat, "heard");
      await until(() => listener.texts.includes("heard"));
      await bus.close();
      await until(async () => String(await listening()) === "0,0");
    });

    test("a server that has lost everything takes a reply again when it is told all of it", async () => {
      const [bus, chat] = [await open(), newChat()];
      const listener = new Recorder();
      await bus.subscribe(chat, listener);
      const author = { generation: newId(), producer: newId(), n: 1, opens: false };
      const { id } = await bus.append(chat, "Spain", author);
      await backend.admin.flushdb();
      expect((await bus.append(chat, " is", { ...author, n: 2 })).status).toBe("forgotten");
      expect(await bus.since(chat, id)).toBeNull();
      expect((await bus.append(chat, "Spain is", { ...author, n: 3, opens: true })).status).toBe("appended");
      expect((await bus.append(chat, " a", { ...author, n: 4 })).status).toBe("appended");
      await until(() => listener.entries.length === 3);
      expect(listener.texts).toEqual(["Spain", "Spain is", " a"]);
      // The log began anew, which a reader sees from the entry that has none before it.
      expect(listener.entries[1]?.prev).toBeNull();
    });

    test("a key that holds something else is an error of that chat alone", async () => {
      const [bus, chat, generation] = [await open(), newChat(), newId()];
      const keys = keysOf(chat, generation);
      const author = { generation, producer: newId(), n: 1, opens: true };
      const fails = (work: Promise<unknown>) => expect(work).rejects.toThrow(BusError);
      const works = async () =>
        expect((await bus.append(newChat(), "x", { ...author, generation: newId() })).status).toBe("appended");

      await backend.admin.set(keys.log, "text");
      await fails(bus.append(chat, "a"));
      await fails(bus.append(chat, "a", author));
      await fails(bus.since(chat, null));
      await fails(bus.since(chat, "1-1"));
      // A reply whose frame could not be added is not held by anybody.
      expect(await backend.admin.exists(keys.reply)).toBe(0);
      await works();

      await backend.admin.del(keys.log);
      await backend.admin.xadd(keys.log, "*", "other", "field", "t", "text");
      await backend.admin.rpush(keys.reply, "list");
      await fails(bus.append(chat, "a", author));
      await fails(bus.take(chat, generation));
      await works();

      await backend.admin.del(keys.reply);
      await backend.admin.hset(keys.stop, "a", "hash");
      await fails(bus.append(chat, "a", author));
      expect(await backend.admin.xlen(keys.log)).toBe(1);
      await bus.stop(chat, generation, "ann");
      await works();
    });

    test("a reply's key with a text that is not ours counts for nothing, and is replaced", async () => {
      const [bus, chat] = [await open(), newChat()];
      for (const text of ["", "x", "1", "settled ", "1 2", "-1 0-0 p", "settled?"]) {
        const generation = newId();
        const { reply } = keysOf(chat, generation);
        const author = { generation, producer: newId(), n: 2, opens: false };
        await backend.admin.set(reply, text);
        expect((await bus.append(chat, "a", author)).status).toBe("forgotten");
        expect((await bus.append(chat, "a", { ...author, opens: true })).status).toBe("appended");
        expect(await backend.admin.pttl(reply)).toBeGreaterThan(0);
        await backend.admin.set(reply, text);
        expect(await bus.take(chat, generation)).toBe(true);
        expect(await backend.admin.pttl(reply)).toBeGreaterThan(0);
      }
    });

    test("what others publish to the channel is no frame, but tells to read the log", async () => {
      const [bus, chat] = [await open(), newChat()];
      const listener = new Recorder();
      await bus.subscribe(chat, listener);
      const { channel } = keysOf(chat);
      const odd = ["", "hello", "1-1", "1-1 -", "x-1 - text", "1-1 x text", "{}", "1-1,- text"];
      for (const message of odd) await backend.admin.publish(channel, message);
      await bus.append(chat, "a frame");
      await until(() => listener.entries.length === 1);
      expect(listener.texts).toEqual(["a frame"]);
      expect(listener.missedTimes).toBe(odd.length);
    });

    test("closing waits for what is under way", async () => {
      const [bus, chat] = [await backend.open(), newChat()];
      await bus.subscribe(chat, new Recorder());
      const working = [bus.append(chat, "last words"), bus.stop(chat, newId(), "ann"), bus.ping()];
      await bus.close();
      await Promise.all(working);
      expect(await backend.admin.xlen(keysOf(chat).log)).toBe(1);
    });
  });
}
