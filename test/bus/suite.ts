import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { type Author, BUS_OPTIONS, type Bus, BusError, type BusOptions } from "../../lib/bus/bus.ts";
import { random, seed, trials } from "../support/seed.ts";
import { type Backend, newChat, newId } from "./adapters.ts";
import { Reader, Recorder, until } from "./reader.ts";
import { clearSuite } from "./suite-clear.ts";

const LEASE = BUS_OPTIONS.leaseMs;
const LOG = BUS_OPTIONS.logMs;

/** What every bus must do, whatever is behind it. */
export function busSuite(name: string, start: () => Promise<Backend>): void {
  describe(name, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await start();
    });
    afterAll(() => backend?.close());

    const open = async (options: Partial<BusOptions> = {}): Promise<Bus> => {
      const bus = await backend.open(options);
      onTestFinished(() => bus.close());
      return bus;
    };
    /** A bus and a chat of its own. */
    const fresh = async (options: Partial<BusOptions> = {}) => ({ bus: await open(options), chat: newChat() });
    const listen = async (bus: Bus, chat: string) => {
      const heard = new Recorder();
      const subscription = await bus.subscribe(chat, heard);
      return { heard, ...subscription };
    };

    describe("log", () => {
      test("frames arrive in the order of the log, each with the id of the one before", async () => {
        const { bus, chat } = await fresh();
        const { heard } = await listen(bus, chat);
        const ids: (string | null)[] = [];
        for (let i = 0; i < 10; i++) ids.push((await bus.append(chat, `{"i":${i}}`)).id);
        await until(() => heard.entries.length === 10);
        const expected = ids.map((id, i) => ({ id, prev: i === 0 ? null : ids[i - 1], text: `{"i":${i}}` }));
        expect(heard.entries).toEqual(expected);
        expect(await bus.since(chat, null)).toEqual(expected);
        expect(heard.missedTimes).toBe(0);
        for (const id of ids) expect(id).toMatch(/^\d{13}-\d+$/);
      });

      test("the log behind an entry is what came after it, and nothing after the last", async () => {
        const { bus, chat } = await fresh();
        const ids: string[] = [];
        for (const text of ["a", "b", "c"]) ids.push(String((await bus.append(chat, text)).id));
        const [first = "", second = "", third = ""] = ids;
        expect(await bus.since(chat, first)).toEqual([
          { id: second, prev: first, text: "b" },
          { id: third, prev: second, text: "c" },
        ]);
        expect(await bus.since(chat, third)).toEqual([]);
      });

      test("an entry that is not in the log is told apart from an empty rest, and an odd id is no error", async () => {
        const { bus, chat } = await fresh();
        expect(await bus.since(chat, null)).toEqual([]);
        expect(await bus.since(chat, "1795290429334-0")).toBeNull();
        const { id } = await bus.append(chat, "a");
        const elsewhere = await bus.append(newChat(), "a");
        const odd = [
          "",
          "0-0",
          "1-1",
          `0${id}`,
          `${id} `,
          "x",
          "-",
          "+",
          "$",
          "(1-1",
          "99999999999999999999-0",
          "1",
          "-1-1",
          "1-x",
        ];
        for (const after of [...odd, "18446744073709551616-0", `${elsewhere.id}1`]) {
          expect([after, await bus.since(chat, after)]).toEqual([after, null]);
        }
        expect(await bus.since(chat, "18446744073709551615-18446744073709551615")).toBeNull();
      });

      test("a log keeps its last frames, and an entry that was trimmed away is gone", async () => {
        const { bus, chat } = await fresh({ logLength: 10 });
        const ids: string[] = [];
        for (let i = 0; i < 250; i++) ids.push(String((await bus.append(chat, String(i))).id));
        const kept = (await bus.since(chat, null)) ?? [];
        expect(kept.length).toBeGreaterThanOrEqual(10);
        // Redis trims whole blocks of a hundred.
        expect(kept.length).toBeLessThanOrEqual(110);
        expect(kept.map(({ id }) => id)).toEqual(ids.slice(-kept.length));
        expect(kept[0]?.prev).toBeNull();
        expect(await bus.since(chat, ids[0] as string)).toBeNull();
        expect(await bus.since(chat, ids.at(-10) as string)).toHaveLength(9);
      });

      test("a log is forgotten some time after its last frame", async () => {
        const { bus, chat } = await fresh();
        const first = await bus.append(chat, "a");
        await backend.pass(chat, LOG - 5_000);
        const second = await bus.append(chat, "b");
        await backend.pass(chat, LOG - 5_000);
        expect(await bus.since(chat, first.id)).toEqual([{ id: second.id, prev: first.id, text: "b" }]);
        await backend.pass(chat, 6_000);
        expect(await bus.since(chat, first.id)).toBeNull();
        expect(await bus.since(chat, null)).toEqual([]);
        const { heard } = await listen(bus, chat);
        const { id } = await bus.append(chat, "c");
        await until(() => heard.entries.length === 1);
        expect(heard.entries).toEqual([{ id, prev: null, text: "c" }]);
      });

      test("any text of one line arrives as it was, in the log and by delivery", async () => {
        const { bus, chat } = await fresh();
        const { heard } = await listen(bus, chat);
        const texts = [
          '{"reply":"Größe 🌍 \\ud83c \u2028\u2029\u0085","a":1}',
          "0",
          "12345678901234567890",
          " padded ",
          "a,b,c - data: message,x,1",
          "- - -",
          "OK",
          JSON.stringify({ reply: "ß🌍x".repeat(28_000) }),
        ];
        expect(Buffer.byteLength(texts.at(-1) as string)).toBeGreaterThan(190_000);
        for (const text of texts) await bus.append(chat, text);
        await until(() => heard.entries.length === texts.length);
        expect(heard.texts).toEqual(texts);
        expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual(texts);
      });

      test("a text of several lines, or none, is refused before anything happens", async () => {
        const { bus, chat } = await fresh();
        for (const text of ["a\nb", "a\r", ""]) await expect(bus.append(chat, text)).rejects.toThrow(TypeError);
        await expect(bus.append(chat, null)).rejects.toThrow(TypeError);
        expect(await bus.since(chat, null)).toEqual([]);
      });

      test("chats have nothing to do with each other", async () => {
        const { bus, chat } = await fresh();
        const others = [`${chat}x`, chat.toUpperCase(), newChat()];
        const { heard } = await listen(bus, chat);
        const author = newAuthor();
        await bus.stop(others[0] as string, author.generation, "somebody");
        for (const other of others) await bus.append(other, "theirs", author);
        const { stoppedBy } = await bus.append(chat, "ours", author);
        expect(stoppedBy).toBeNull();
        await until(() => heard.entries.length > 0);
        expect(heard.texts).toEqual(["ours"]);
        expect(heard.entries[0]?.prev).toBeNull();
        expect(await bus.since(chat, null)).toHaveLength(1);
      });
    });

    describe("replies", () => {
      test("a frame that is repeated is in the log once, and its answer names the same entry", async () => {
        const { bus, chat } = await fresh();
        const { heard } = await listen(bus, chat);
        const author = newAuthor();
        const first = await bus.append(chat, "one", author);
        expect(first).toEqual({ status: "appended", id: expect.any(String), stoppedBy: null });
        expect(await bus.append(chat, "one", author)).toEqual({ ...first, status: "seen" });
        const second = await bus.append(chat, "two", { ...author, n: 2 });
        expect(second.status).toBe("appended");
        expect(await bus.append(chat, "one", author)).toEqual({ status: "seen", id: null, stoppedBy: null });
        expect(await bus.append(chat, "two", { ...author, n: 2, opens: true })).toEqual({ ...second, status: "seen" });
        await bus.append(chat, "end");
        await until(() => heard.texts.includes("end"));
        expect(heard.texts).toEqual(["one", "two", "end"]);
      });

      test("a frame that is sent ten times at once is in the log once", async () => {
        const { bus, chat } = await fresh();
        const author = newAuthor();
        const answers = await Promise.all(Array.from({ length: 10 }, () => bus.append(chat, "one", author)));
        expect(answers.map(({ status }) => status).sort()).toEqual(["appended", ...Array<string>(9).fill("seen")]);
        expect(new Set(answers.map(({ id }) => id)).size).toBe(1);
        expect(await bus.since(chat, null)).toHaveLength(1);
      });

      test("numbers may leave gaps and grow large", async () => {
        const { bus, chat } = await fresh();
        const author = newAuthor();
        for (const n of [1, 9, 10, 100, 2 ** 40]) {
          expect((await bus.append(chat, String(n), { ...author, n })).status).toBe("appended");
        }
        expect((await bus.append(chat, "x", { ...author, n: 99 })).status).toBe("seen");
        expect((await bus.append(chat, "x", { ...author, n: 2 ** 40 })).status).toBe("seen");
        expect((await bus.append(chat, "x", { ...author, n: 2 ** 40 + 1 })).status).toBe("appended");
      });

      test("a frame without an author is added every time", async () => {
        const { bus, chat } = await fresh();
        for (let i = 0; i < 3; i++) expect((await bus.append(chat, "same")).status).toBe("appended");
        expect(await bus.since(chat, null)).toHaveLength(3);
      });

      test("one producer writes a reply, and another's frames are dropped", async () => {
        const { bus, chat } = await fresh();
        const author = newAuthor();
        const other = { ...author, producer: newId() };
        await bus.append(chat, "mine", author);
        for (const [text, n, opens] of [
          ["theirs", 1, false],
          ["theirs", 2, true],
          [null, 2, false],
        ] as const) {
          const answer = await bus.append(chat, text, { ...other, n, opens });
          expect(answer).toEqual({ status: "taken", id: null, stoppedBy: null });
        }
        expect((await bus.append(chat, "mine", { ...author, n: 2 })).status).toBe("appended");
        expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual(["mine", "mine"]);
      });

      test("of a reply that the bus knows nothing of, only the first frame or one that opens is taken", async () => {
        const { bus, chat } = await fresh();
        const author = newAuthor();
        const forgotten = { status: "forgotten", id: null, stoppedBy: null };
        expect(await bus.append(chat, "5", { ...author, n: 5 })).toEqual(forgotten);
        expect(await bus.append(chat, null, { ...author, n: 5 })).toEqual(forgotten);
        expect(await bus.append(chat, null, { ...author, n: 1, opens: true })).toEqual(forgotten);
        expect(await bus.since(chat, null)).toEqual([]);
        expect((await bus.append(chat, "5", { ...author, n: 5, opens: true })).status).toBe("appended");
        expect((await bus.append(chat, "6", { ...author, n: 6 })).status).toBe("appended");
        expect((await bus.append(chat, "1", newAuthor())).status).toBe("appended");
      });

      test("a lease runs out unless a frame, a repeated one or a bare renewal prolongs it", async () => {
        const { bus, chat } = await fresh();
        const author = newAuthor();
        const almost = () => backend.pass(chat, LEASE - 4_000);
        const second = { ...author, n: 2 };
        await bus.append(chat, "1", author);
        await almost();
        expect((await bus.append(chat, "2", second)).status).toBe("appended");
        await almost();
        expect((await bus.append(chat, "2", second)).status).toBe("seen");
        await almost();
        expect(await bus.append(chat, null, { ...author, n: 3 })).toEqual({ status: "seen", id: null, stoppedBy: null });
        await almost();
        expect((await bus.append(chat, "3", { ...author, n: 3 })).status).toBe("appended");
        await backend.pass(chat, LEASE + 1);
        expect((await bus.append(chat, "4", { ...author, n: 4 })).status).toBe("forgotten");
        expect((await bus.append(chat, "4", { ...author, n: 4, opens: true })).status).toBe("appended");
        expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual(["1", "2", "3", "4"]);
      });

      test("whose lease ran out may be continued by another producer, and then the first is out", async () => {
        const { bus, chat } = await fresh();
        const author = newAuthor();
        await bus.append(chat, "1", author);
        await backend.pass(chat, LEASE + 1);
        const other = { ...author, producer: newId(), opens: true };
        expect((await bus.append(chat, "again", other)).status).toBe("appended");
        expect((await bus.append(chat, "2", { ...author, n: 2, opens: true })).status).toBe("taken");
      });

      test("a stop is told with the next frame, whoever asked first, also before the first frame", async () => {
        const { bus, chat } = await fresh();
        const [author, other] = [newAuthor(), newAuthor()];
        await bus.stop(chat, author.generation, "ann é");
        await bus.stop(chat, author.generation, "bob");
        expect(await bus.append(chat, "1", author)).toMatchObject({ status: "appended", stoppedBy: "ann é" });
        expect(await bus.append(chat, "1", author)).toMatchObject({ status: "seen", stoppedBy: "ann é" });
        expect(await bus.append(chat, null, author)).toMatchObject({ status: "seen", stoppedBy: "ann é" });
        expect(await bus.append(chat, "1", other)).toMatchObject({ status: "appended", stoppedBy: null });
        expect(await bus.append(chat, "2", { ...author, producer: newId() })).toMatchObject({
          status: "taken",
          stoppedBy: "ann é",
        });
        await backend.pass(chat, LEASE + 1);
        expect(await bus.append(chat, "2", { ...author, n: 2 })).toMatchObject({ status: "forgotten", stoppedBy: "ann é" });
        await backend.pass(chat, LOG);
        expect(await bus.append(chat, "1", author)).toMatchObject({ status: "appended", stoppedBy: null });
      });

      test("a reply can be taken once its lease has run out, and then its producer adds nothing more", async () => {
        const { bus, chat } = await fresh();
        const author = newAuthor();
        await bus.append(chat, "1", author);
        expect(await bus.take(chat, author.generation)).toBe(false);
        await backend.pass(chat, LEASE - 1_000);
        expect(await bus.take(chat, author.generation)).toBe(false);
        await backend.pass(chat, 1_001);
        expect(await bus.take(chat, author.generation)).toBe(true);
        for (const [text, n, opens] of [
          ["2", 2, false],
          ["2", 2, true],
          [null, 2, false],
          ["1", 1, false],
        ] as const) {
          expect(await bus.append(chat, text, { ...author, n, opens })).toMatchObject({ status: "taken", id: null });
        }
        expect(await bus.since(chat, null)).toHaveLength(1);
      });

      test("of many who take a reply one gets it", async () => {
        const { bus, chat } = await fresh();
        const generation = newId();
        const taken = await Promise.all(Array.from({ length: 10 }, () => bus.take(chat, generation)));
        expect(taken.filter(Boolean)).toHaveLength(1);
        expect(await bus.take(chat, generation)).toBe(false);
      });

      test("a reply whose taker came to nothing can be taken again, and stays closed to its producer", async () => {
        const { bus, chat } = await fresh();
        const author = newAuthor();
        expect(await bus.take(chat, author.generation)).toBe(true);
        await backend.pass(chat, LEASE - 1_000);
        expect(await bus.take(chat, author.generation)).toBe(false);
        await backend.pass(chat, 2_000);
        expect((await bus.append(chat, "1", author)).status).toBe("taken");
        expect(await bus.take(chat, author.generation)).toBe(true);
        expect(await bus.take(chat, author.generation)).toBe(false);
        await backend.pass(chat, LOG - 5_000);
        expect((await bus.append(chat, "1", author)).status).toBe("taken");
      });

      test("many replies at once: one chain, every frame once, each reply in its order", async () => {
        const { bus, chat } = await fresh();
        const { heard } = await listen(bus, chat);
        const authors = Array.from({ length: 20 }, () => newAuthor());
        await Promise.all(
          authors.map(async (author, i) => {
            for (let n = 1; n <= 20; n++) await bus.append(chat, `${i}:${n}`, { ...author, n });
          }),
        );
        await until(() => heard.entries.length >= 400);
        const log = (await bus.since(chat, null)) ?? [];
        expect(heard.entries).toEqual(log);
        expect(log.map(({ prev }) => prev)).toEqual([null, ...log.slice(0, -1).map(({ id }) => id)]);
        for (const i of authors.keys()) {
          const own = log.filter(({ text }) => text.startsWith(`${i}:`)).map(({ text }) => text);
          expect(own).toEqual(Array.from({ length: 20 }, (_, n) => `${i}:${n + 1}`));
        }
      });
    });

    describe("a clear", () => clearSuite({ backend: () => backend, open, fresh, listen, newAuthor }));

    describe("subscriptions", () => {
      test("once it has begun, nothing is missed, whatever is being appended meanwhile", async () => {
        const { bus, chat } = await fresh({ logLength: 100_000 });
        let writing = true;
        const writer = (async () => {
          for (let i = 0; writing; i++) {
            await bus.append(chat, String(i));
            // Memory answers within the turn, and would leave none for anybody else.
            await new Promise(setImmediate);
          }
        })();
        await until(async () => ((await bus.since(chat, null))?.length ?? 0) > 3);
        const { heard } = await listen(bus, chat);
        const read = (await bus.since(chat, null)) ?? [];
        await until(() => heard.entries.length > 20);
        writing = false;
        await writer;
        const log = (await bus.since(chat, null)) ?? [];
        await until(() => heard.entries.at(-1)?.id === log.at(-1)?.id);
        const [first] = heard.entries;
        const from = log.findIndex(({ id }) => id === first?.id);
        // What was read after the beginning, and what was heard since, are the whole log.
        expect(from).toBeLessThanOrEqual(read.length);
        expect(heard.entries).toEqual(log.slice(from));
        expect(heard.missedTimes).toBe(0);
      });

      test("every listener of a chat hears every frame, until it leaves", async () => {
        const { bus, chat } = await fresh();
        const [one, two, three] = await Promise.all([listen(bus, chat), listen(bus, chat), listen(bus, chat)]);
        await bus.append(chat, "a");
        await until(() => [one, two, three].every(({ heard }) => heard.texts.includes("a")));
        one.close();
        one.close();
        await bus.append(chat, "b");
        await until(() => [two, three].every(({ heard }) => heard.texts.includes("b")));
        two.close();
        three.close();
        const again = await listen(bus, chat);
        await bus.append(chat, "c");
        await until(() => again.heard.texts.includes("c"));
        expect([one, two, three, again].map(({ heard }) => heard.texts.join(""))).toEqual(["a", "ab", "ab", "c"]);
      });

      test("one listener that is given twice hears twice, and leaves once at a time", async () => {
        const { bus, chat } = await fresh();
        const heard = new Recorder();
        const first = await bus.subscribe(chat, heard);
        await bus.subscribe(chat, heard);
        await bus.append(chat, "a");
        await until(() => heard.texts.length === 2);
        first.close();
        await bus.append(chat, "b");
        await until(() => heard.texts.includes("b"));
        expect(heard.texts).toEqual(["a", "a", "b"]);
      });

      test("what a listener throws reaches neither the writer nor other listeners", async () => {
        const thrown: unknown[] = [];
        const { bus, chat } = await fresh({ onError: (error) => thrown.push(error) });
        const fail = () => {
          throw new Error("a listener's");
        };
        const bad = await bus.subscribe(chat, { entry: fail, missed: fail });
        const { heard } = await listen(bus, chat);
        expect((await bus.append(chat, "a")).status).toBe("appended");
        await until(() => heard.texts.includes("a"));
        bad.renew();
        await until(() => heard.missedTimes === 1);
        expect((await bus.append(chat, "b")).status).toBe("appended");
        await until(() => heard.texts.includes("b"));
        expect(thrown.map(String)).toEqual(Array(3).fill("Error: a listener's"));
      });

      test("a listener that appends does not change the order for others", async () => {
        const { bus, chat } = await fresh();
        const answers: Promise<unknown>[] = [];
        await bus.subscribe(chat, {
          entry: ({ text }) => {
            if (text === "a") answers.push(bus.append(chat, "b"));
          },
          missed: () => {},
        });
        const { heard } = await listen(bus, chat);
        await bus.append(chat, "a");
        await until(() => heard.entries.length === 2);
        expect(heard.texts).toEqual(["a", "b"]);
        expect(answers).toHaveLength(1);
      });

      test("a renewed line tells every listener that frames may have been missed, and delivers again", async () => {
        const { bus, chat } = await fresh();
        const [one, two] = await Promise.all([listen(bus, chat), listen(bus, chat)]);
        for (let i = 1; i <= 3; i++) {
          one.renew();
          await until(() => one.heard.missedTimes >= i && two.heard.missedTimes >= i);
          await bus.append(chat, String(i));
          await until(() => [one, two].every(({ heard }) => heard.texts.includes(String(i))));
        }
        expect(one.heard.texts).toEqual(["1", "2", "3"]);
        expect(one.heard.missedTimes).toBe(3);
      });

      test("after close() nothing is delivered and everything is refused", async () => {
        const { bus, chat } = await fresh();
        const { heard, ...subscription } = await listen(bus, chat);
        await bus.append(chat, "a");
        await until(() => heard.entries.length === 1);
        await bus.close();
        await bus.close();
        subscription.renew();
        const generation = newId();
        const calls: (() => Promise<unknown>)[] = [
          () => bus.append(chat, "b"),
          () => bus.since(chat, null),
          () => bus.subscribe(chat, heard),
          () => bus.stop(chat, generation, "ann"),
          () => bus.take(chat, generation),
          () => bus.clear(chat, [generation], "c"),
          () => bus.ping(),
        ];
        for (const call of calls) await expect(call()).rejects.toThrow(BusError);
        subscription.close();
        expect(heard.texts).toEqual(["a"]);
        expect(heard.missedTimes).toBe(0);
      });

      test("a bus that is there answers a ping", async () => {
        const { bus } = await fresh();
        await expect(bus.ping()).resolves.toBeUndefined();
      });

      test("two buses on the same data see each other's frames, leases and stops", async () => {
        const { bus, chat } = await fresh();
        const other = await open();
        const { heard } = await listen(other, chat);
        const author = newAuthor();
        const { id } = await bus.append(chat, "a", author);
        if (!backend.isShared) {
          expect(await other.since(chat, null)).toEqual([]);
          return;
        }
        await until(() => heard.entries.length === 1);
        expect(heard.entries).toEqual([{ id, prev: null, text: "a" }]);
        expect(await other.since(chat, null)).toEqual(heard.entries);
        expect(await other.take(chat, author.generation)).toBe(false);
        await other.stop(chat, author.generation, "ann");
        expect((await bus.append(chat, "b", { ...author, n: 2 })).stoppedBy).toBe("ann");
        expect((await other.append(chat, "x", { ...author, producer: newId() })).status).toBe("taken");
      });
    });

    test.each(rounds())("a viewer that comes at any time ends with exactly the log (SEED=%i)", async (from) => {
      const next = random(from);
      const { bus, chat } = await fresh();
      const readerBus = backend.isShared ? await open() : bus;
      const authors = Array.from({ length: 5 }, () => newAuthor());
      const writers = authors.map(async (author, i) => {
        for (let n = 1; n <= 30; ) {
          await bus.append(chat, `${i}:${n}`, { ...author, n });
          if (next() < 0.7) n++;
        }
      });
      const readers: Reader[] = [];
      for (let i = 0; i < 5; i++) {
        const reader = new Reader(readerBus, chat);
        const subscription = await readerBus.subscribe(chat, reader);
        reader.missed();
        if (next() < 0.5) subscription.renew();
        readers.push(reader);
      }
      await Promise.all(writers);
      const log = (await bus.since(chat, null)) ?? [];
      expect(log.map(({ text }) => text).sort()).toEqual(authors.flatMap((_, i) => thirty(i)).sort());
      for (const reader of readers) {
        await until(() => reader.last === log.at(-1)?.id);
        expect(reader.entries).toEqual(log);
      }
    });
  });
}

const newAuthor = (): Author => ({ generation: newId(), producer: newId(), n: 1, opens: false });
const thirty = (i: number) => Array.from({ length: 30 }, (_, n) => `${i}:${n + 1}`);
/** The seeds of a trial's rounds. */
export const rounds = (): number[] => Array.from({ length: trials(5) }, (_, i) => seed + i);
