import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mintToken } from "../../lib/token.ts";
import { basic, countEvents, everyChannel, expectRefusal, signInAgain } from "../support/answers.ts";
import type { Person } from "../support/app.ts";
import { bearer, converse, refused, startTalk, type Talk, watch } from "./talk.ts";

const PATH = "/talk/stream";
const json = { "content-type": "application/json" };
const form = { "content-type": "application/x-www-form-urlencoded" };
type Way = { path?: string; method?: string; headers?: Record<string, string>; body?: string };

/** Every way to say who one is on a stream, with a token of some kind. */
const ways: [what: string, way: (token: string, person: Person) => Way][] = [
  ...everyChannel.map(([name, present]): (typeof ways)[number] => [
    `the channel ${name}`,
    (token, person) => ({ headers: present({ ...person, token }) }),
  ]),
  ["token in the query", (token) => ({ path: `${PATH}?token=${token}&room=r` })],
  ["token in a form", (token) => ({ method: "POST", headers: form, body: `room=r&token=${token}` })],
  ["token in JSON", (token) => ({ method: "POST", headers: json, body: JSON.stringify({ room: "r", token }) })],
  ["token in JSON under a form's type", (token) => ({ method: "POST", headers: form, body: JSON.stringify({ token }) })],
  [
    "token in the query of a POST",
    (token) => ({ path: `${PATH}?token=${token}`, method: "POST", headers: form, body: "room=r" }),
  ],
];
const ticketWays: typeof ways = [
  ["ticket in the query", (token) => ({ path: `${PATH}?ticket=${token}` })],
  ["ticket in a form", (token) => ({ method: "POST", headers: form, body: `ticket=${token}` })],
  ["token in the query", (token) => ({ path: `${PATH}?token=${token}` })],
  ["token in JSON", (token) => ({ method: "POST", headers: json, body: JSON.stringify({ token }) })],
];

let talk: Talk;
let bob: Person;
let nowMs = Date.now();
beforeAll(async () => {
  talk = await startTalk({ env: { ALLOWED_ORIGINS: "https://app.example.com" }, now: () => nowMs });
  bob = await talk.app.person();
});
afterAll(async () => {
  const told = JSON.stringify(talk.app.lines);
  const rows = JSON.stringify(await talk.app.deps.store.db.select().from(talk.app.deps.store.events));
  expect(rows).toContain("room=r");
  // No token or ticket of any test, nor a part of one, was ever written down.
  for (const text of [told, rows]) expect(text).not.toMatch(/pg[skt]_[A-Za-z0-9_-]{8}/);
  await talk.close();
});

/** Watches in that way; answers the user whom the event is of. */
async function watched({ path = PATH, ...ask }: Way) {
  const seat = talk.seat();
  const watcher = await watch(talk.app.url + path, ask);
  expect(watcher.status).toBe(200);
  const { viewer } = await seat;
  viewer.end();
  await watcher.over;
  return talk.event(watcher.id);
}
const answered = ({ path = PATH, ...ask }: Way) => talk.app.call(path, { method: "GET", ...ask });

describe("a session's token", () => {
  test.each(ways)("is taken by %s", async (_what, way) => {
    expect(await watched(way(talk.alice.token, talk.alice))).toMatchObject({ userId: talk.alice.id, status: 200 });
  });

  test.each(ways)("that is none, or nobody's, is refused by %s", async (_what, way) => {
    const rows = await countEvents(talk.app);
    for (const token of ["", "nonsense", mintToken("session").token, `${talk.alice.token}x`, mintToken("ticket").token])
      expectRefusal(await answered(way(token, talk.alice)), 401, "unauthenticated");
    expect(await countEvents(talk.app)).toBe(rows);
  });

  test.each(ways)("and another one at once are refused by %s", async (_what, way) => {
    const { headers, ...rest } = way(talk.alice.token, talk.alice);
    if (headers?.cookie) return;
    const other = headers?.authorization ? { path: `${PATH}?token=${bob.token}` } : { headers: { ...headers, ...bearer(bob) } };
    expectRefusal(await answered({ headers, ...rest, ...other } as Way), 400, "two_credentials");
  });

  test("said twice alike is one; one that is said beats the cookie", async () => {
    const both = { path: `${PATH}?token=${bob.token}`, headers: bearer(bob) };
    expect(await watched(both)).toMatchObject({ userId: bob.id });
    expect(await watched({ path: `${PATH}?token=${bob.token}`, headers: { cookie: `sess=${talk.alice.token}` } })).toMatchObject({
      userId: bob.id,
    });
    expectRefusal(await answered({ path: `${PATH}?token=${bob.token}&token=${talk.alice.token}` }), 400, "two_credentials");
    expectRefusal(
      await answered({
        path: `${PATH}?token=${bob.token}`,
        method: "POST",
        headers: json,
        body: `{"token":"${talk.alice.token}"}`,
      }),
      400,
    );
  });

  test("with somebody else's name is refused", async () => {
    const headers = { authorization: basic(bob.username, talk.alice.token) };
    expectRefusal(await answered({ headers }), 401, "unauthenticated");
    expectRefusal(await answered({ headers, path: `${PATH}?token=${talk.alice.token}` }), 401, "unauthenticated");
  });

  test("in the query is none where there is no stream", async () => {
    for (const path of ["/talk/plain", "/user/session", "/user/read"])
      for (const name of ["token", "ticket"])
        for (const token of [talk.alice.token, await talk.ticket()])
          for (const method of ["GET", "POST"])
            expectRefusal(await answered({ path: `${path}?${name}=${token}`, method }), 401, "unauthenticated");
    expect((await answered({ path: `/talk/shared?token=${talk.alice.token}`, method: "POST" })).json).toEqual({ caller: null });
    expectRefusal(await answered({ path: "/talk/plain", method: "POST", headers: json, body: `{"token":"${bob.token}"}` }), 401);
  });

  test("is let in nameless where nobody need sign in, and by name where somebody does", async () => {
    expect(await watched({ path: "/talk/open?room=r" })).toMatchObject({ userId: null, query: "room=r" });
    expect(await watched({ path: `/talk/open?token=${bob.token}` })).toMatchObject({ userId: bob.id, query: "token=" });
  });

  test("in a body that cannot be read is not looked for, and the caller not told what is wrong with it", async () => {
    expectRefusal(await answered({ method: "POST", headers: json, body: "{" }), 401, "unauthenticated");
    expectRefusal(await answered({ method: "POST", headers: form, body: "a=%zz&token=x" }), 401, "unauthenticated");
    expectRefusal(await answered({ path: `${PATH}?a=%zz` }), 401, "unauthenticated");
    expectRefusal(await answered({ method: "POST", headers: json, body: '{"token":5}' }), 401, "unauthenticated");
    expectRefusal(await answered({ path: "/talk/post", method: "POST", headers: json, body: `{"x":"${"x".repeat(100)}"}` }), 401);
  });
});

describe("a ticket", () => {
  test.each(ticketWays)("is taken once, by %s", async (_what, way) => {
    const ticket = await talk.ticket(bob);
    expect(await watched(way(ticket, bob))).toMatchObject({ userId: bob.id, status: 200 });
    expectRefusal(await answered(way(ticket, bob)), 401, "unauthenticated");
  });

  test("is taken once however many come with it at the same time", async () => {
    const ticket = await talk.ticket(bob);
    const taken = talk.seats.length;
    const statuses = await Promise.all(
      Array.from({ length: 10 }, async () => {
        const watcher = await watch(`${talk.app.url}${PATH}?ticket=${ticket}`);
        watcher.leave();
        return watcher.status;
      }),
    );
    expect(statuses.sort()).toEqual([200, ...Array(9).fill(401)]);
    expect(talk.seats).toHaveLength(taken + 1);
    await talk.empty();
  });

  test("lasts as long as it says, and no longer than its session", async () => {
    const late = await talk.ticket(bob, 60_000);
    const soon = await talk.ticket(bob, 60_000);
    nowMs += 59_999;
    expect(await watched({ path: `${PATH}?ticket=${soon}` })).toMatchObject({ userId: bob.id });
    nowMs += 1;
    expectRefusal(await answered({ path: `${PATH}?ticket=${late}` }), 401, "unauthenticated");

    const again = await signInAgain(talk.app, bob);
    const orphan = await talk.ticket(again);
    await talk.app.call("/user/logout", { token: again.token, body: {} });
    expectRefusal(await answered({ path: `${PATH}?ticket=${orphan}` }), 401, "unauthenticated");
  });

  test("is no session, and no bearer", async () => {
    const ticket = await talk.ticket(bob);
    const headers = [
      { authorization: `Bearer ${ticket}` },
      { cookie: `sess=${ticket}` },
      { authorization: basic(bob.username, ticket) },
    ];
    for (const path of [PATH, "/user/session"])
      for (const it of headers) expectRefusal(await talk.app.call(path, { headers: it }), 401, "unauthenticated");
    expectRefusal(await answered({ path: `${PATH}?ticket=${ticket}`, headers: bearer(bob) }), 400, "two_credentials");
    expect(await watched({ path: `${PATH}?ticket=${ticket}`, headers: { cookie: `sess=${talk.alice.token}` } })).toMatchObject({
      userId: bob.id,
    });
  });

  test("that is used up by a request which is refused later stays used up", async () => {
    const ticket = await talk.ticket(bob);
    const answer = await answered({ path: `${PATH}?ticket=${ticket}&room=${"x".repeat(65)}` });
    expectRefusal(answer, 400, "invalid_input");
    expect(await talk.event(answer.headers.get("x-proxy-gpt-request-id"))).toMatchObject({ userId: bob.id, status: 400 });
    expectRefusal(await answered({ path: `${PATH}?ticket=${ticket}` }), 401, "unauthenticated");
  });
});

describe("on a WebSocket", () => {
  const key = (token: string) => `openai-insecure-api-key.${token}`;

  test.each<[what: string, ask: (token: string) => [path: string, headers: Record<string, string>, protocols: string[]]]>([
    ["a bearer", (token) => [PATH, { authorization: `Bearer ${token}` }, []]],
    ["the cookie", (token) => [PATH, { cookie: `sess=${token}` }, []]],
    ["Basic", (token) => [PATH, { authorization: basic(bob.username, token) }, []]],
    ["the query", (token) => [`${PATH}?token=${token}`, {}, []]],
    ["a subprotocol", (token) => [PATH, {}, ["chat", key(token)]]],
  ])("a token is taken by %s, and told to nobody", async (_what, ask) => {
    const [path, headers, protocols] = ask(bob.token);
    const seat = talk.seat();
    const { socket, answer, closed, id } = await converse(talk.app.url + path, headers, protocols);
    expect(JSON.stringify(answer.rawHeaders)).not.toContain(bob.token.slice(4));
    expect(socket.protocol).toBe(protocols.length > 0 ? "chat" : "");
    (await seat).viewer.end();
    await closed;
    expect(await talk.event(id)).toMatchObject({ userId: bob.id, status: 101, errorCode: null });
    const wrong = ask(mintToken("session").token);
    expectRefusal(await refused(talk.app.url + wrong[0], wrong[1], wrong[2]), 401, "unauthenticated");
  });

  test("a ticket is taken once", async () => {
    const url = `${talk.app.url}${PATH}?ticket=${await talk.ticket(bob)}`;
    const { socket, id, closed } = await converse(url);
    socket.close();
    await closed;
    expect(await talk.event(id)).toMatchObject({ userId: bob.id, query: "ticket=" });
    expectRefusal(await refused(url), 401, "unauthenticated");
  });
});

test("a session that ends takes its streams along", async () => {
  const quick = await startTalk({ authorizeEveryMs: 40 });
  const url = quick.app.url + PATH;
  const kept = await watch(url, { headers: bearer(quick.alice) });
  const again = await signInAgain(quick.app, quick.alice);
  const byTicket = await watch(`${url}?ticket=${await quick.ticket(again)}`);
  const sse = await watch(url, { headers: bearer(again) });
  const ws = await converse(url, bearer(again));
  expect(quick.seats).toHaveLength(4);
  await quick.app.call("/user/logout", { token: again.token, body: {} });
  expect([await sse.over, await byTicket.over, await ws.closed]).toEqual(["ended", "ended", 1008]);
  expect(quick.seats.map(({ detached }) => detached)).toEqual([0, 1, 1, 1]);
  for (const { id } of [sse, byTicket, ws]) expect(await quick.event(id)).toMatchObject({ errorCode: "session_ended" });
  kept.leave();
  await quick.empty();
  await quick.close();
});
