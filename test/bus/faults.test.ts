import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { type Author, type Bus, type BusAddress, BusError, type BusOptions } from "../../lib/bus/bus.ts";
import { openBus } from "../../lib/bus/open.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { random } from "../support/seed.ts";
import { startWire, type Wire } from "../support/wire.ts";
import { keysOf, newChat, newId, redisBackend, type ServerBackend, upstashBackend } from "./adapters.ts";
import { Reader, Recorder, until, untilAnswered } from "./reader.ts";
import { rounds } from "./suite.ts";

/** A line between the bus and its server that is cut, refuses, swallows or dawdles. */
describe.skipIf(skippedWithoutRedis("faults of the line to a bus"))("with a bad line", () => {
  faultSuite("Redis", () => redisBackend(14));
  faultSuite("Upstash", () => upstashBackend(15));
});

/** How long an answer may take where it is to be waited for in vain, and where one is to come. */
const TIMEOUT_MS = 250;
const PATIENT = { timeoutMs: 1_500 };
const OPEN = "it was down a moment ago";

function faultSuite(name: string, start: () => Promise<ServerBackend>): void {
  describe(name, { timeout: 60_000 }, () => {
    let backend: ServerBackend;
    const printed: unknown[] = [];
    beforeAll(async () => {
      backend = await start();
    });
    afterAll(() => backend?.close());
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

    const newWire = async () => {
      const { address } = backend;
      const target = new URL(address.kind === "memory" ? "" : address.kind === "redis" ? String(redisUrl) : address.url);
      const wire = await startWire(Number(target.port));
      onTestFinished(() => wire.close());
      return wire;
    };
    const through = (wire: Wire): BusAddress => {
      const { address } = backend;
      if (address.kind === "memory") throw new Error("memory has no line");
      return { ...address, url: wire.url(address.url).replace(/\/$/, "") };
    };
    const openThrough = async (wire: Wire, options: Partial<BusOptions> = {}): Promise<Bus> => {
      const bus = await openBus(through(wire), { timeoutMs: TIMEOUT_MS, ...options });
      onTestFinished(() => bus.close());
      return bus;
    };
    const openDirect = async () => {
      const bus = await backend.open();
      onTestFinished(() => bus.close());
      return bus;
    };
    const newAuthor = (): Author => ({ generation: newId(), producer: newId(), n: 1, opens: false });
    const causeOf = async (work: Promise<unknown>): Promise<string> => {
      const error: unknown = await work.then(
        () => new Error("it did not fail"),
        (thrown) => thrown,
      );
      expect(error).toBeInstanceOf(BusError);
      return ((error as Error).cause as Error).message;
    };
    const back = (bus: Bus) => until(() => bus.ping().then(...always));

    /** Every method, as a question that is to fail. */
    const everyMethod = (bus: Bus, chat: string) => [
      () => bus.append(chat, "a"),
      () => bus.append(chat, "a", newAuthor()),
      () => bus.since(chat, null),
      () => bus.stop(chat, newId(), "ann"),
      () => bus.take(chat, newId()),
      () => bus.clear(chat, [newId()], "cleared"),
      () => bus.ping(),
      () => bus.subscribe(chat, new Recorder()),
    ];

    describe.each([
      ["refuses", (wire: Wire, on: boolean) => wire.refuse(on)],
      ["swallows everything", (wire: Wire, on: boolean) => wire.drop(on)],
    ])("a server that %s", (_, trouble) => {
      test("is an error to every method, and then at once until it is back", async () => {
        const wire = await newWire();
        const chat = newChat();
        trouble(wire, true);
        for (const i of everyMethod({} as Bus, chat).keys()) {
          const bus = await openThrough(wire);
          expect(await causeOf(everyMethod(bus, chat)[i]?.() as Promise<unknown>)).not.toBe(OPEN);
          // Of the same kind, the next question is not even asked.
          expect(await causeOf(everyMethod(bus, chat)[i]?.() as Promise<unknown>)).toBe(OPEN);
        }
        const bus = await openThrough(wire);
        await causeOf(bus.ping());
        trouble(wire, false);
        for (const call of everyMethod(bus, chat)) expect(await causeOf(call())).toBe(OPEN);
        await back(bus);
        for (const call of everyMethod(bus, chat)) await untilAnswered<unknown>(call);
      });

      test("that happens on a standing line is an error, and it is found again when it is back", async () => {
        const wire = await newWire();
        const [bus, chat] = [await openThrough(wire, PATIENT), newChat()];
        const heard = new Recorder();
        await bus.subscribe(chat, heard);
        await bus.append(chat, "before");
        await until(() => heard.texts.includes("before"));
        trouble(wire, true);
        wire.cut();
        await causeOf(bus.append(chat, "meanwhile"));
        trouble(wire, false);
        await back(bus);
        await until(() => heard.missedTimes > 0);
        await bus.append(chat, "after");
        await until(() => heard.texts.includes("after"));
        expect(heard.texts).toEqual(["before", "after"]);
        expect(heard.missedTimes).toBe(1);
      });

      test("leaves a listener whose subscription failed alone", async () => {
        const wire = await newWire();
        const [bus, direct, chat] = [await openThrough(wire), await openDirect(), newChat()];
        const heard = new Recorder();
        trouble(wire, true);
        await causeOf(bus.subscribe(chat, heard));
        trouble(wire, false);
        await back(bus);
        const later = new Recorder();
        await untilAnswered(() => bus.subscribe(chat, later));
        await direct.append(chat, "a");
        await until(() => later.texts.includes("a"));
        expect([heard.texts, heard.missedTimes]).toEqual([[], 0]);
      });
    });

    test("a server that is slow is an error, and its late answers are nobody's", async () => {
      const wire = await newWire();
      const bus = await openThrough(wire, PATIENT);
      const chats = Array.from({ length: 5 }, () => newChat());
      for (const chat of chats) await bus.append(chat, chat);
      wire.delay(PATIENT.timeoutMs);
      expect(await causeOf(bus.since(chats[0] as string, null))).toMatch(/^no answer within|timeout/);
      wire.delay(0);
      await back(bus);
      const logs = await Promise.all(chats.map((chat) => untilAnswered(() => bus.since(chat, null))));
      expect(logs.map((log) => log?.map(({ text }) => text))).toEqual(chats.map((chat) => [chat]));
    });

    test("a server that comes and goes costs an error at most, and no frame twice or out of order", async () => {
      const wire = await newWire();
      const [bus, direct, chat] = [await openThrough(wire), await openDirect(), newChat()];
      const author = newAuthor();
      for (let n = 1; n <= 12; n++) {
        if (n % 3 === 0) wire.cut();
        wire.refuse(n % 6 === 0);
        const first = await bus.append(chat, String(n), { ...author, n }).catch((error) => error);
        wire.refuse(false);
        if (first instanceof Error) {
          expect(first).toBeInstanceOf(BusError);
          await untilAnswered(() => bus.append(chat, String(n), { ...author, n }));
        }
      }
      expect((await direct.since(chat, null))?.map(({ text }) => Number(text))).toEqual(
        Array.from({ length: 12 }, (_, i) => i + 1),
      );
    });

    test("a cut of the line tells every listener, and the log has what they missed", async () => {
      const wire = await newWire();
      const [bus, direct] = [await openThrough(wire, PATIENT), await openDirect()];
      const chats = Array.from({ length: 10 }, () => newChat());
      const readers = chats.map((chat) => new Reader(bus, chat));
      for (const [i, chat] of chats.entries()) await bus.subscribe(chat, readers[i] as Reader);
      for (let round = 0; round < 3; round++) {
        for (const chat of chats) await direct.append(chat, `heard ${round}`);
        wire.refuse(true);
        wire.cut();
        for (const chat of chats) await direct.append(chat, `missed ${round}`);
        wire.refuse(false);
        const length = 2 * (round + 1);
        await until(() => readers.every(({ entries }) => entries.length === length));
      }
      for (const [i, chat] of chats.entries()) expect(readers[i]?.entries).toEqual(await direct.since(chat, null));
    });

    test("a line that has died without a word is found by nobody, and renewed when somebody suspects it", async () => {
      const wire = await newWire();
      const [bus, direct, chat] = [await openThrough(wire, PATIENT), await openDirect(), newChat()];
      const reader = new Reader(bus, chat);
      const subscription = await bus.subscribe(chat, reader);
      await direct.append(chat, "heard");
      await until(() => reader.delivered === 1);
      wire.drop(true);
      const { id } = await direct.append(chat, "lost");
      await direct.append(chat, "lost too");
      expect([reader.entries.length, reader.fills]).toEqual([1, 0]);
      subscription.renew();
      wire.drop(false);
      await until(() => reader.entries.length === 3);
      expect(reader.entries[1]?.id).toBe(id);
      await direct.append(chat, "heard again");
      await until(() => reader.entries.length === 4);
      expect([reader.delivered, reader.fills]).toEqual([2, 1]);
    });

    test("an append whose answer was lost is repeated, and the frame is in the log once", async () => {
      const wire = await newWire();
      const [bus, chat] = [await openThrough(wire, { timeoutMs: 10_000 }), newChat()];
      const author = newAuthor();
      await bus.append(chat, "1", author);
      wire.delay(300);
      const lost = causeOf(bus.append(chat, "2", { ...author, n: 2 }));
      await until(async () => (await backend.admin.xlen(keysOf(chat).log)) === 2);
      wire.cut();
      expect(await lost).not.toMatch(/^no answer within/);
      wire.delay(0);
      const again = await untilAnswered(() => bus.append(chat, "2", { ...author, n: 2 }));
      const log = (await bus.since(chat, null)) ?? [];
      expect(again).toEqual({ status: "seen", id: log[1]?.id, stoppedBy: null });
      expect(log.map(({ text }) => text)).toEqual(["1", "2"]);
    });

    test("closing a bus whose server is silent comes to an end, and so do those who wait", async () => {
      const wire = await newWire();
      const [bus, chat] = [await openThrough(wire, PATIENT), newChat()];
      await bus.subscribe(chat, new Recorder());
      await bus.ping();
      wire.drop(true);
      const waiting = [causeOf(bus.ping()), causeOf(bus.subscribe(newChat(), new Recorder()))];
      await bus.close();
      await Promise.all(waiting);
    });

    test.each(rounds())("whatever happens to the lines, readers end with exactly the log (SEED=%i)", async (from) => {
      const next = random(from);
      const chance = <T>(...of: T[]): T => of[Math.floor(next() * of.length)] as T;
      const [readersWire, writersWire, chat] = [await newWire(), await newWire(), newChat()];
      const [readersBus, direct] = [await openThrough(readersWire), await openDirect()];
      const writerBuses = [await openThrough(writersWire), await openThrough(writersWire)];
      const readers = Array.from({ length: 3 }, () => new Reader(readersBus, chat));
      const subscriptions = await Promise.all(readers.map((reader) => untilAnswered(() => readersBus.subscribe(chat, reader))));

      const { bridge } = backend;
      const onBridge = bridge
        ? [
            () => bridge.cut("end"),
            () => bridge.cut("reset"),
            () => bridge.fail(chance("dropAnswer", "refuse", "garbage", "status500")),
          ]
        : [];
      let died = false;
      const troubles = [
        () => readersWire.cut(),
        () => writersWire.cut(),
        () => chance(...subscriptions).renew(),
        () => {
          died = true;
          readersWire.drop(true);
          setImmediate(() => readersWire.drop(false));
        },
        ...onBridge,
      ];
      // Some trouble each time that so many frames have been written, so that a round is the same for the same seed.
      let written = 0;
      let due = 10;
      const authors = Array.from({ length: 4 }, () => newAuthor());
      const writing = authors.map(async (author, i) => {
        const bus = writerBuses[i % 2] as Bus;
        for (let n = 1; n <= 25; ) {
          await untilAnswered(() => bus.append(chat, `${i}:${n}`, { ...author, n }));
          if (++written === due) {
            due += 15;
            chance(...troubles)();
          }
          if (next() < 0.8) n++;
        }
      });
      await Promise.all(writing);
      if (died) for (const { renew } of subscriptions) renew();

      // What is left of the bridge's faults is met by whoever comes next.
      const log = (await untilAnswered(() => direct.since(chat, null))) ?? [];
      expect(log).toHaveLength(100);
      for (const i of authors.keys()) {
        const own = log.filter(({ text }) => text.startsWith(`${i}:`)).map(({ text }) => Number(text.split(":")[1]));
        expect(own).toEqual(Array.from({ length: 25 }, (_, n) => n + 1));
      }
      for (const reader of readers) {
        await until(() => reader.last === log.at(-1)?.id);
        expect(reader.entries).toEqual(log);
      }
    });
  });
}

const always = [() => true, () => false] as const;
