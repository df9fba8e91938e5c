import { inArray } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { beforeAll, expect, test } from "vitest";
import * as events from "../../lib/repo/events.ts";
import type { Store } from "../../lib/store/store.ts";
import { at, idAt, opening } from "./people.ts";

/** Long before every other test's events. */
const START_MS = -1_000_000_000;

export function eventsSuite(current: () => Store): void {
  const mine = { user: uuidv7(), group: uuidv7(), chat: uuidv7() };
  const range = { since: at(START_MS), until: at(START_MS + 1_000) };
  let made: string[] = [];
  const search = async (filter: Partial<events.EventFilter>) =>
    (await events.search(current(), { limit: 100, ...filter })).map(({ id }) => made.indexOf(id));

  beforeAll(async () => {
    const { db, events: table, outcomes } = current();
    const rows = [
      { userId: mine.user, path: "/v1/chat/completions" },
      { userId: mine.user, path: "/v1/embeddings", groupId: mine.group },
      { userId: uuidv7(), endpoint: "user.login", path: "/user/login", chatId: mine.chat },
      { userId: mine.user, path: "/v1/models", chatId: mine.chat, query: "full=100%" },
      { endpoint: "user.login", path: "/user/login", query: "needle=1" },
    ].map((row, i) => {
      const startedAt = at(START_MS + i * 10);
      return { ...opening({ startedAt }), id: idAt(startedAt), ...row };
    });
    made = rows.map(({ id }) => id);
    const ends = [
      { model: "gpt-4o", status: 200, requestBody: "tell me about Spain" },
      { model: "gpt-4o", status: 429 },
      { status: 200, responseBody: "50% of Málaga_ 🎉 C:\\temp" },
      null,
      { status: 401 },
    ];
    await db.insert(table).values(rows);
    await db
      .insert(outcomes)
      .values(
        ends.flatMap((end, i) =>
          end ? [{ eventId: made[i] as string, endedAt: at(START_MS + 99), durationMs: 7, ...end }] : [],
        ),
      );
  });

  test("newest first, and each filter by itself", async () => {
    expect(await search(range)).toEqual([4, 3, 2, 1, 0]);
    expect(await search({ user: mine.user })).toEqual([3, 1, 0]);
    expect(await search({ group: mine.group })).toEqual([1]);
    expect(await search({ chat: mine.chat })).toEqual([3, 2]);
    expect(await search({ ...range, endpoint: "user.login" })).toEqual([4, 2]);
    expect(await search({ ...range, model: "gpt-4o" })).toEqual([1, 0]);
    expect(await search({ ...range, status: 200 })).toEqual([2, 0]);
  });

  test("filters narrow each other", async () => {
    expect(await search({ user: mine.user, status: 200, model: "gpt-4o", text: "spain", endpoint: "proxy.v1" })).toEqual([0]);
    expect(await search({ user: mine.user, chat: mine.chat })).toEqual([3]);
    expect(await search({ user: mine.user, status: 401 })).toEqual([]);
  });

  test("since is the first instant and until the first one outside, to the millisecond", async () => {
    const since = at(START_MS + 10);
    expect(await search({ since, until: at(START_MS + 30) })).toEqual([2, 1]);
    expect(await search({ since, until: at(START_MS + 31) })).toEqual([3, 2, 1]);
    expect(await search({ since: at(START_MS + 11), until: at(START_MS + 30) })).toEqual([2]);
    expect(await search({ since, until: since })).toEqual([]);
  });

  test("text is found in path, query and both bodies, whatever the case, and stands for itself", async () => {
    expect(await search({ ...range, text: "EMBED" })).toEqual([1]);
    expect(await search({ ...range, text: "needle" })).toEqual([4]);
    expect(await search({ ...range, text: "about spain" })).toEqual([0]);
    expect(await search({ ...range, text: "Málaga_ 🎉" })).toEqual([2]);
    expect(await search({ ...range, text: "100%" })).toEqual([3]);
    expect(await search({ ...range, text: "c:\\T" })).toEqual([2]);
    expect(await search({ ...range, text: "1%f" })).toEqual([]);
    expect(await search({ ...range, text: "log_n" })).toEqual([]);
    expect(await search({ ...range, text: "'; drop table events; --" })).toEqual([]);
  });

  test("a page ends where the next begins, in both directions", async () => {
    const [first, second] = [await search({ ...range, limit: 2 }), await search({ ...range, before: made[3], limit: 2 })];
    expect([first, second]).toEqual([
      [4, 3],
      [2, 1],
    ]);
    expect(await search({ ...range, before: made[1], limit: 2 })).toEqual([0]);
    expect(await search({ ...range, after: made[0], limit: 2 })).toEqual([1, 2]);
    expect(await search({ ...range, after: made[2], limit: 2 })).toEqual([3, 4]);
    expect(await search({ ...range, after: made[4] })).toEqual([]);
    expect(await search({ user: mine.user, after: made[0] })).toEqual([1, 3]);
  });

  test("a row says all that was written, and whether it is done", async () => {
    const [row] = await events.search(current(), { user: mine.user, limit: 1 });
    expect(row).toMatchObject({
      startedAt: at(START_MS + 30),
      endedAt: null,
      status: null,
      durationMs: null,
      chatId: mine.chat,
      groupId: null,
      query: "full=100%",
      responseBody: null,
    });
    const [ended] = await events.search(current(), { ids: [made[2] as string], limit: 1 });
    expect(ended).toMatchObject({ endedAt: at(START_MS + 99), status: 200, durationMs: 7, tokensEstimated: null, model: null });
    const startedAt = at(START_MS + 30);
    const hourLater = startedAt.getTime() + 3_600_000;
    expect(events.stateOf({ startedAt, endedAt: null }, hourLater)).toBe("running");
    expect(events.stateOf({ startedAt, endedAt: null }, hourLater + 1)).toBe("interrupted");
    expect(events.stateOf({ startedAt, endedAt: startedAt }, hourLater + 1)).toBe("done");
  });

  test("pruning takes the oldest, as many as asked for, and none that began at the instant or later", async () => {
    const { db, events: table, outcomes } = current();
    const long = START_MS - 1_000_000;
    const ids = [0, 1, 2, 3].map((ms) => idAt(at(long + ms)));
    await db.insert(table).values(ids.map((id, i) => ({ ...opening({ startedAt: at(long + i) }), id })));
    await db.insert(outcomes).values(ids.map((eventId) => ({ eventId, endedAt: at(), status: 200, durationMs: 1 })));
    const left = async () =>
      (await events.search(current(), { since: at(long), until: at(long + 10), limit: 10 })).map(({ id }) => ids.indexOf(id));
    expect(await events.prune(current(), at(long + 3), 2)).toBe(2);
    expect(await left()).toEqual([3, 2]);
    expect(await events.prune(current(), at(long + 3), 100)).toBe(1);
    expect(await events.prune(current(), at(long + 3), 100)).toBe(0);
    expect(await left()).toEqual([3]);
    const kept = await db.select({ id: outcomes.eventId }).from(outcomes).where(inArray(outcomes.eventId, ids));
    expect(kept).toEqual([{ id: ids[3] }]);
    expect(await search({ ...range, limit: 1 })).toEqual([4]);
  });
}
