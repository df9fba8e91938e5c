import { expect, test } from "vitest";
import type { Author, Bus, BusOptions, Entry } from "../../lib/bus/bus.ts";
import { type Backend, newId } from "./adapters.ts";
import { type Recorder, until } from "./reader.ts";

/** How the suite opens a bus with a chat of its own, and listens to it. */
export type Means = {
  backend(): Backend;
  open(): Promise<Bus>;
  fresh(options?: Partial<BusOptions>): Promise<{ bus: Bus; chat: string }>;
  listen(bus: Bus, chat: string): Promise<{ heard: Recorder }>;
  newAuthor(): Author;
};

const LINE = '{"t":"cleared","upTo":7}';

/** What becomes of a chat's log, and of replies that are being written, when it is cleared. */
export function clearSuite({ backend, open, fresh, listen, newAuthor }: Means): void {
  test("leaves nothing in the log but its own line, which listeners get as the next entry", async () => {
    const { bus, chat } = await fresh();
    const { heard } = await listen(bus, chat);
    const ids: (string | null)[] = [];
    for (const text of ["a", "b", "c"]) ids.push((await bus.append(chat, text)).id);
    await bus.clear(chat, [], LINE);
    await until(() => heard.texts.includes(LINE));
    const line = heard.entries.at(-1) as Entry;
    expect(heard.texts).toEqual(["a", "b", "c", LINE]);
    expect(line.prev).toBe(ids[2]);
    expect(heard.missedTimes).toBe(0);
    expect(await bus.since(chat, null)).toEqual([{ id: line.id, prev: null, text: LINE }]);
    expect(await bus.since(chat, line.id)).toEqual([]);
    for (const id of ids) expect(await bus.since(chat, id)).toBeNull();
    const next = await bus.append(chat, "d");
    await until(() => heard.texts.includes("d"));
    expect(heard.entries.at(-1)).toEqual({ id: next.id, prev: line.id, text: "d" });
    expect(await bus.since(chat, line.id)).toEqual([heard.entries.at(-1)]);
  });

  test("any number of times gives each line an id behind those before, in the same millisecond as well", async () => {
    const { bus, chat } = await fresh();
    const { heard } = await listen(bus, chat);
    const sent = Array.from({ length: 60 }, (_, i) => `${i % 3 === 0 ? "said" : "cleared"} ${i}`);
    // Those of one turn arrive together; whatever their order is, it is one.
    await Promise.all(sent.map((text) => (text.startsWith("said") ? bus.append(chat, text) : bus.clear(chat, [], text))));
    await until(() => heard.entries.length === sent.length);
    expect([...heard.texts].sort()).toEqual([...sent].sort());
    for (const [i, { id, prev }] of heard.entries.entries()) {
      const before = heard.entries[i - 1];
      expect(prev).toBe(before?.id ?? null);
      if (before) expect([id, isBehind(id, before.id)]).toEqual([id, true]);
    }
    const last = heard.texts.findLastIndex((text) => text.startsWith("cleared"));
    expect((await bus.since(chat, null))?.map(({ id }) => id)).toEqual(heard.entries.slice(last).map(({ id }) => id));
    expect(heard.missedTimes).toBe(0);
  });

  test("of an empty log, or one that was forgotten, leaves the line", async () => {
    const { bus, chat } = await fresh();
    const { heard } = await listen(bus, chat);
    await bus.clear(chat, [], "first");
    await until(() => heard.entries.length === 1);
    expect(heard.entries[0]).toMatchObject({ prev: null, text: "first" });
    expect(await bus.since(chat, null)).toEqual(heard.entries);
    await backend().pass(chat, 3_600_001);
    expect(await bus.since(chat, null)).toEqual([]);
    await bus.clear(chat, [], "second");
    await until(() => heard.entries.length === 2);
    expect(heard.entries[1]).toMatchObject({ prev: null, text: "second" });
    expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual(["second"]);
  });

  test("settles the replies that it names: their producers are told so, and add nothing more", async () => {
    const { bus, chat } = await fresh();
    const { heard } = await listen(bus, chat);
    const [begun, unbegun] = [newAuthor(), newAuthor()];
    await bus.append(chat, "1", begun);
    await bus.clear(chat, [begun.generation, unbegun.generation], LINE);
    const taken = { status: "taken", id: null, stoppedBy: null };
    for (const author of [begun, unbegun]) {
      for (const [text, n, opens] of [
        ["1", 1, false],
        ["2", 2, false],
        ["2", 2, true],
        [null, 2, false],
      ] as const)
        expect(await bus.append(chat, text, { ...author, n, opens })).toEqual(taken);
      expect(await bus.take(chat, author.generation)).toBe(false);
    }
    // They stay settled for as long as a log lasts, not just for a lease.
    await backend().pass(chat, 3_600_000 - 5_000);
    for (const author of [begun, unbegun]) expect(await bus.append(chat, "3", { ...author, n: 3, opens: true })).toEqual(taken);
    expect(heard.texts).toEqual(["1", LINE]);
    expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual([LINE]);
  });

  test("lets the replies go on that it does not name, with their leases, numbers and stops", async () => {
    const { bus, chat } = await fresh();
    const { heard } = await listen(bus, chat);
    const [named, other] = [newAuthor(), newAuthor()];
    await bus.append(chat, "named", named);
    await bus.append(chat, "other 1", other);
    await bus.stop(chat, other.generation, "ann");
    await bus.clear(chat, [named.generation], LINE);
    expect(await bus.append(chat, "other 1", other)).toMatchObject({ status: "seen", stoppedBy: "ann" });
    expect(await bus.take(chat, other.generation)).toBe(false);
    expect(await bus.append(chat, "other 2", { ...other, n: 2 })).toMatchObject({ status: "appended", stoppedBy: "ann" });
    expect((await bus.append(chat, "later", newAuthor())).status).toBe("appended");
    await until(() => heard.texts.includes("later"));
    expect(heard.texts).toEqual(["named", "other 1", LINE, "other 2", "later"]);
    expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual([LINE, "other 2", "later"]);
  });

  test("touches no other chat", async () => {
    const { bus, chat } = await fresh();
    const [other, author] = [`${chat}x`, newAuthor()];
    const { heard } = await listen(bus, other);
    await bus.append(other, "theirs", author);
    await bus.clear(chat, [author.generation], LINE);
    expect((await bus.append(other, "theirs too", { ...author, n: 2 })).status).toBe("appended");
    await until(() => heard.texts.includes("theirs too"));
    expect(heard.texts).toEqual(["theirs", "theirs too"]);
    expect(await bus.since(other, null)).toEqual(heard.entries);
  });

  test("with a text of several lines, or none, is refused before anything happens", async () => {
    const { bus, chat } = await fresh();
    const author = newAuthor();
    await bus.append(chat, "1", author);
    for (const text of ["a\nb", "a\r", ""]) await expect(bus.clear(chat, [author.generation], text)).rejects.toThrow(TypeError);
    expect((await bus.append(chat, "2", { ...author, n: 2 })).status).toBe("appended");
    expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual(["1", "2"]);
  });

  test("of a hundred replies at once settles all of them", async () => {
    const { bus, chat } = await fresh();
    const authors = Array.from({ length: 100 }, () => newAuthor());
    await Promise.all(authors.map((author) => bus.append(chat, "1", author)));
    await bus.clear(
      chat,
      authors.map(({ generation }) => generation),
      LINE,
    );
    const answers = await Promise.all(authors.map((author) => bus.append(chat, "2", { ...author, n: 2 })));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set(["taken"]));
    expect((await bus.since(chat, null))?.map(({ text }) => text)).toEqual([LINE]);
  });

  test("by one bus is heard at another on the same data, whose producers are settled", async () => {
    const { bus, chat } = await fresh();
    const other = await open();
    const { heard } = await listen(other, chat);
    const author = newAuthor();
    await other.append(chat, "1", author);
    await bus.clear(chat, [author.generation], LINE);
    if (!backend().isShared) {
      expect((await other.since(chat, null))?.map(({ text }) => text)).toEqual(["1"]);
      return;
    }
    await until(() => heard.texts.includes(LINE));
    expect(heard.texts).toEqual(["1", LINE]);
    expect(heard.entries[1]?.prev).toBe(heard.entries[0]?.id);
    expect((await other.append(chat, "2", { ...author, n: 2 })).status).toBe("taken");
    expect((await other.append(chat, "x", { ...author, generation: newId() })).status).toBe("appended");
  });
}

function isBehind(id: string, other: string): boolean {
  const [[ms, seq], [otherMs, otherSeq]] = [id, other].map((it) => it.split("-").map(Number)) as [number[], number[]];
  return ms === otherMs ? Number(seq) > Number(otherSeq) : Number(ms) > Number(otherMs);
}
