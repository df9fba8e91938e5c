import { eq } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { describe, expect, test } from "vitest";
import { createLedger } from "../../lib/audit/ledger.ts";
import { search } from "../../lib/repo/events.ts";
import * as ledger from "../../lib/repo/ledger.ts";
import { type Store, StoreError } from "../../lib/store/store.ts";
import { at, DAY_MS, opening, outcome, signedIn } from "./people.ts";

const openAll = (store: Store, openings: readonly ledger.Keyed[]) => ledger.write(store, openings, []);
const closeAll = (store: Store, closings: readonly ledger.Closing[]) => ledger.write(store, [], closings);
const TODAY = "2026-11-21";

export function ledgerSuite(current: () => Store): void {
  const rows = async (ids: readonly string[]) => (await search(current(), { ids, limit: 1_000 })).reverse();
  const usage = (userId: string) => {
    const { db, usage: table } = current();
    return db.select().from(table).where(eq(table.userId, userId)).orderBy(table.day);
  };
  const tokens = (promptTokens: number, completionTokens: number, estimated = false) => ({
    usage: { promptTokens, completionTokens, estimated },
  });

  describe("opening", () => {
    test("an open event says whose token it was, and only valid tokens have one", async () => {
      const store = current();
      const [anna, ben] = [await signedIn(store, { admin: true }), await signedIn(store, {}, { kind: "key" })];
      const expired = await signedIn(store, {}, { expiresAt: at() });
      const disabled = await signedIn(store);
      await store.db.update(store.users).set({ disabledAt: at() }).where(eq(store.users.id, disabled.user.id));
      const group = [expired.hash, ben.hash, "unknown", anna.hash, disabled.hash].map((hash) => ({
        hash,
        opening: opening({ path: "/v1/größe", query: "q=🎉&x='", address: "2001:db8::1", startedAt: at(1) }),
      }));
      const caller = ({ user, session }: typeof anna) => ({
        userId: user.id,
        username: user.username,
        admin: user.admin,
        sessionId: session.id,
        kind: session.kind,
        lastUsedAt: at(),
      });
      expect(await openAll(store, group)).toEqual([null, caller(ben), null, caller(anna), null]);

      const found = await rows(group.map((it) => it.opening.id));
      expect(found.map(({ id }) => id)).toEqual([group[1]?.opening.id, group[3]?.opening.id]);
      const none = { model: null, status: null, durationMs: null, requestBody: null, responseBody: null, chatId: null };
      expect(found[1]).toMatchObject({
        ...group[3]?.opening,
        ...none,
        userId: anna.user.id,
        sessionId: anna.session.id,
        endedAt: null,
        tokensEstimated: null,
      });
      expect(await usage(disabled.user.id)).toEqual([]);
      expect(await usage(anna.user.id)).toMatchObject([{ day: TODAY, requests: 1, promptTokens: 0, completionTokens: 0 }]);
    });

    test("requests are counted by user and day, however many come in one group", async () => {
      const store = current();
      const [anna, ben] = [await signedIn(store), await signedIn(store)];
      const request = (hash: string, ms = 0) => ({ hash, opening: opening({ startedAt: at(ms) }) });
      await openAll(store, [
        ...Array.from({ length: 60 }, () => request(anna.hash)),
        ...Array.from({ length: 3 }, () => request(ben.hash)),
        request(anna.hash, DAY_MS),
      ]);
      await openAll(store, [request(anna.hash)]);
      expect(await usage(anna.user.id)).toMatchObject([
        { day: TODAY, requests: 61 },
        { day: "2026-11-22", requests: 1 },
      ]);
      expect(await usage(ben.user.id)).toMatchObject([{ requests: 3 }]);
    });

    test("a group in which one event is there already is refused whole, and counts nothing", async () => {
      const store = current();
      const anna = await signedIn(store);
      const [first, second, third] = [0, 1, 2].map(() => ({ hash: anna.hash, opening: opening() })) as [Keyed, Keyed, Keyed];
      const callers = await openAll(store, [first, second]);
      for (const again of [[first, second], [second], [third, first]]) {
        expect(await openAll(store, again).catch((error: unknown) => error)).toMatchObject({ duplicate: true, permanent: true });
      }
      expect(await ledger.callersOf(store, [first, second])).toEqual(callers);
      expect(await rows([first, second, third].map((it) => it.opening.id))).toHaveLength(2);
      expect(await usage(anna.user.id)).toMatchObject([{ requests: 2 }]);
    });

    test("of two tries of one group at the same time one counts", async () => {
      const store = current();
      const anna = await signedIn(store);
      for (let trial = 1; trial <= 10; trial++) {
        const group = [0, 1, 2].map(() => ({ hash: anna.hash, opening: opening() }));
        expect(await fates([openAll(store, group), openAll(store, group)])).toEqual(["done", "duplicate"]);
        expect(await usage(anna.user.id)).toMatchObject([{ requests: 3 * trial }]);
      }
    });

    test("an event that belongs to nobody yet is there once", async () => {
      const store = current();
      const event = opening({ endpoint: "user.login", path: "/user/login" });
      await ledger.openAnonymous(store, event);
      await ledger.openAnonymous(store, { ...event, path: "/again" });
      expect(await rows([event.id])).toMatchObject([{ ...event, userId: null, sessionId: null, endedAt: null, status: null }]);
    });
  });

  describe("closing", () => {
    const open = async (store: Store) => {
      const someone = await signedIn(store);
      const event = opening();
      await openAll(store, [{ opening: event, hash: someone.hash }]);
      return { ...someone, id: event.id, userId: someone.user.id };
    };

    test("an end is kept whole: text in any script, flags, numbers, times", async () => {
      const store = current();
      const { id, userId } = await open(store);
      const ended = outcome({
        userId,
        ...tokens(9, 12, true),
        model: "gpt-4o 🎉",
        upstreamRequestId: "req_1",
        errorCode: "client_closed",
        requestBody: '{"prompt":"Straße 日本 🎉\\u0000 \'"}\n',
        responseBody: "x".repeat(65_536),
        subject: { groupId: uuidv7(), chatId: uuidv7() },
      });
      await closeAll(store, [{ id, outcome: ended }]);
      const { usage: _, subject, ...columns } = ended;
      const [row] = await rows([id]);
      expect(row).toMatchObject({
        ...columns,
        ...subject,
        promptTokens: 9,
        completionTokens: 12,
        tokensEstimated: true,
        startedAt: at(),
      });
      expect(await usage(userId)).toMatchObject([{ requests: 1, promptTokens: 9, completionTokens: 12 }]);
    });

    test("an end may leave everything open, and estimated is not the same as unknown", async () => {
      const store = current();
      const [bare, measured] = [await open(store), await open(store)];
      await closeAll(store, [
        { id: bare.id, outcome: outcome() },
        { id: measured.id, outcome: outcome({ userId: measured.userId, ...tokens(1, 0) }) },
      ]);
      const unknown = { model: null, tokensEstimated: null, promptTokens: null, requestBody: null, groupId: null };
      expect(await rows([bare.id])).toMatchObject([{ ...unknown, endedAt: at(41), userId: bare.userId, status: 200 }]);
      expect(await rows([measured.id])).toMatchObject([{ tokensEstimated: false, promptTokens: 1, completionTokens: 0 }]);
    });

    test("what a request turned out to be about is written down, and nothing else is touched by it", async () => {
      const store = current();
      const [anna, ben] = [await open(store), await open(store)];
      const login = opening();
      await ledger.openAnonymous(store, login);
      const [groupId, chatId] = [uuidv7(), uuidv7()];
      await closeAll(store, [
        { id: login.id, outcome: outcome({ userId: anna.userId, subject: { userId: anna.userId } }) },
        { id: anna.id, outcome: outcome({ userId: anna.userId, subject: { groupId, chatId } }) },
        { id: ben.id, outcome: outcome({ userId: anna.userId }) },
      ]);
      const found = new Map((await rows([login.id, anna.id, ben.id])).map((row) => [row.id, row]));
      expect(found.get(login.id)).toMatchObject({ userId: anna.userId, groupId: null, chatId: null, endedAt: at(41) });
      expect(found.get(anna.id)).toMatchObject({ userId: anna.userId, groupId, chatId, endedAt: at(41) });
      expect(found.get(ben.id)).toMatchObject({ userId: ben.userId, groupId: null, chatId: null, endedAt: at(41) });
    });

    test("a group in which one end is there already is refused whole, and counts nothing", async () => {
      const store = current();
      const [anna, other] = [await open(store), await open(store)];
      const end = { id: anna.id, outcome: outcome({ userId: anna.userId, ...tokens(10, 20), model: "first" }) };
      await closeAll(store, [end]);
      const unlike = { ...end, outcome: { ...end.outcome, model: "second", status: 500 } };
      const news = { id: other.id, outcome: outcome({ userId: anna.userId, ...tokens(1, 2) }) };
      for (const again of [[end], [unlike], [news, unlike]]) {
        expect(await closeAll(store, again).catch((error: unknown) => error)).toMatchObject({ duplicate: true });
      }
      expect(await rows([anna.id])).toMatchObject([{ model: "first", status: 200 }]);
      expect(await rows([other.id])).toMatchObject([{ endedAt: null }]);
      expect(await usage(anna.userId)).toMatchObject([{ requests: 1, promptTokens: 10, completionTokens: 20 }]);
    });

    test("of two tries of one end at the same time one counts", async () => {
      const store = current();
      const { hash, user } = await signedIn(store);
      for (let trial = 1; trial <= 10; trial++) {
        const events = [0, 1, 2].map(() => opening());
        await openAll(
          store,
          events.map((it) => ({ opening: it, hash })),
        );
        const ends = events.map(({ id }) => ({ id, outcome: outcome({ userId: user.id, ...tokens(5, 7) }) }));
        expect(await fates([closeAll(store, ends), closeAll(store, ends)])).toEqual(["done", "duplicate"]);
        expect(await usage(user.id)).toMatchObject([{ promptTokens: 15 * trial, completionTokens: 21 * trial }]);
      }
    });

    test("tokens add up beyond 32 bits", async () => {
      const store = current();
      const { hash, user } = await signedIn(store);
      const events = [opening(), opening()];
      await openAll(
        store,
        events.map((it) => ({ opening: it, hash })),
      );
      const big = 2 ** 31 - 1;
      await closeAll(
        store,
        events.map(({ id }) => ({ id, outcome: outcome({ userId: user.id, ...tokens(big, big) }) })),
      );
      expect(await usage(user.id)).toMatchObject([{ promptTokens: 2 * big, completionTokens: 2 * big }]);
    });
  });

  test("an opening and an end of the same user in one group are one row of usage, and all or nothing", async () => {
    const store = current();
    const { hash, user } = await signedIn(store);
    const [first, second] = [opening(), opening()];
    await openAll(store, [{ opening: first, hash }]);
    const end = { id: first.id, outcome: outcome({ userId: user.id, ...tokens(2, 3) }) };
    expect(await ledger.write(store, [{ opening: second, hash }], [end])).toMatchObject([{ userId: user.id }]);
    expect(await usage(user.id)).toMatchObject([{ requests: 2, promptTokens: 2, completionTokens: 3 }]);
    const third = opening();
    expect(await ledger.write(store, [{ opening: third, hash }], [end]).catch((error: unknown) => error)).toBeInstanceOf(
      StoreError,
    );
    expect(await rows([third.id])).toEqual([]);
    expect(await usage(user.id)).toMatchObject([{ requests: 2, promptTokens: 2, completionTokens: 3 }]);
  });

  test("a try again, in the company of others, is answered as the first and counts nothing", async () => {
    const store = current();
    const { hash, user, session } = await signedIn(store);
    const lines: object[] = [];
    const log = (line: object) => void lines.push(line);
    const { open, close, settled } = createLedger({ store, log, now: () => at().getTime(), slidingMs: DAY_MS, inFlight: 4 });
    const events = Array.from({ length: 6 }, () => opening());
    const end = outcome({ userId: user.id, ...tokens(2, 3) });
    const openedFrom = (from: number) => Promise.all(events.slice(from).map((event) => open(event, hash)));
    for (const from of [4, 2, 0]) {
      const callers = await openedFrom(from);
      expect(callers.map((it) => it?.sessionId)).toEqual(callers.map(() => session.id));
    }
    for (const from of [4, 2, 0]) await Promise.all(events.slice(from).map(({ id }) => close(id, end)));
    await settled(5_000);
    expect(await rows(events.map(({ id }) => id))).toMatchObject(events.map(() => ({ status: 200, promptTokens: 2 })));
    expect(await usage(user.id)).toMatchObject([{ requests: 6, promptTokens: 12, completionTokens: 18 }]);
    expect(lines).toEqual([]);
  });

  test("groups of the same users in any order, opening and ending side by side, never wait for each other in a circle", async () => {
    const store = current();
    const people = await Promise.all(Array.from({ length: 6 }, () => signedIn(store)));
    const groups = Array.from({ length: 48 }, (_, g) =>
      [0, 1, 2].map((i) => {
        const person = people[(g + i * (g % 2 === 0 ? 1 : 5)) % 6] as (typeof people)[number];
        return { hash: person.hash, userId: person.user.id, opening: opening() };
      }),
    );
    const ends = (group: (typeof groups)[number]) =>
      group.map(({ opening: { id }, userId }) => ({ id, outcome: outcome({ userId, ...tokens(2, 3) }) }));
    const [early, late] = [groups.slice(0, 24), groups.slice(24)];
    await Promise.all(early.map((group) => openAll(store, group)));
    await Promise.all(late.map((group, g) => ledger.write(store, group, ends(early[(g * 7 + 3) % 24] as typeof group))));
    await Promise.all(late.map((group) => closeAll(store, ends(group))));
    for (const { user } of people) {
      expect(await usage(user.id)).toMatchObject([{ requests: 24, promptTokens: 48, completionTokens: 72 }]);
    }
  });
}

/** How each ended, in the order of the alphabet. */
async function fates(work: Promise<unknown>[]): Promise<string[]> {
  const settled = await Promise.allSettled(work);
  return settled.map((it) => (it.status === "fulfilled" ? "done" : it.reason?.duplicate ? "duplicate" : "failed")).toSorted();
}

type Keyed = { hash: string; opening: ledger.Opening };
