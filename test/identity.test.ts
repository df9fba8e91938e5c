import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as users from "../lib/repo/users.ts";
import { mintToken } from "../lib/token.ts";
import {
  basic,
  channels,
  encodings,
  eventOf,
  everyChannel,
  everyEncoding,
  expectRefusal,
  signInAgain,
} from "./support/answers.ts";
import { type Answer, type App, KEY, PASSWORD, type Person, startApp } from "./support/app.ts";
import { ask, request } from "./support/raw.ts";
import { holdThreads } from "./support/threads.ts";
import { startUpstream, type Upstream } from "./support/upstream.ts";

const MINUTE = 60_000;
const DAY = 86_400_000;
const START = Date.parse("2030-01-01T12:00:00Z");
const OTHER_PASSWORD = "another horse battery";

/** An app whose clock stands still until it is moved. */
async function startClocked(env: Record<string, string> = {}) {
  let at = START;
  const app = await startApp(env, { now: () => at });
  const pass = (ms: number) => {
    at += ms;
  };
  return { app, pass };
}

const login = (app: App, username: string, password: string, headers: Record<string, string> = {}) =>
  app.call("/user/login", { body: { username, password }, headers });
const session = (app: App, headers: Record<string, string>) => app.call("/user/session", { headers });
const isAlive = async (app: App, token: string) => (await session(app, { authorization: `Bearer ${token}` })).status === 200;
/** A refusal as its recipient sees it, without what differs by request. */
const seen = ({ status, headers, json }: Answer) => {
  const { request_id: _, ...error } = json.error;
  const { date: _date, "x-proxy-gpt-request-id": _id, connection: _c, "keep-alive": _k, ...rest } = Object.fromEntries(headers);
  return { status, error, rest };
};
async function makeKey(app: App, token: string, fields: Record<string, unknown> = {}) {
  const { status, json } = await app.call("/user/key/create", { token, body: { label: "a script", ...fields } });
  expect(status).toBe(200);
  return json as { token: string; key: { id: string; hint: string; label: string; expires_at: string | null } };
}

let app: App;
let upstream: Upstream;
/** Has an admin; so nobody else here is one. */
let admin: Person;
let alice: Person;

beforeAll(async () => {
  upstream = await startUpstream();
  app = await startApp({ API_URL: upstream.url });
  admin = await app.person();
  alice = await app.person();
});
afterAll(async () => {
  await app.close();
  await upstream.close();
});

describe("signup", () => {
  test("of people who sign up first at the same time exactly one becomes an admin, and nobody after them", async () => {
    const fresh = await startApp();
    const first = await Promise.all(Array.from({ length: 5 }, () => fresh.person()));
    const admins = await Promise.all(first.map(({ token }) => fresh.call("/user/read", { token })));
    expect(admins.filter(({ json }) => json.user.admin)).toHaveLength(1);
    const { token } = await fresh.person();
    expect((await fresh.call("/user/read", { token })).json.user.admin).toBe(false);
    await fresh.close();
  });

  test("of people who choose the same name at the same time one gets it", async () => {
    const body = (username: string) => ({ username, password: PASSWORD });
    const answers = await Promise.all(
      ["same.name", "Same.Name", "SAME.NAME", "same.name"].map((name) => app.call("/user/signup", { body: body(name) })),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409]);
    for (const answer of answers.filter(({ status }) => status === 409)) {
      expectRefusal(answer, 409, "username_taken");
      expect(answer.json.error.param).toBe("username");
      expect(answer.headers.get("set-cookie")).toBeNull();
    }
  });

  test("answers the token, the same as the cookie, and the user without what is theirs alone", async () => {
    for (const [encoding, encode] of everyEncoding) {
      const username = `answered-${encoding}-${process.pid}`;
      const { status, json, headers, text } = await app.call("/user/signup", { ...encode({ username, password: PASSWORD }) });
      expect(status).toBe(200);
      expect(Object.keys(json).sort()).toEqual(["expires_at", "token", "user"]);
      expect(Object.keys(json.user).sort()).toEqual(["admin", "created_at", "id", "name", "username"]);
      expect(json.token).toMatch(/^pgs_[\w-]{43}[0-9a-z]{7}$/);
      expect(headers.get("set-cookie")).toMatch(new RegExp(`^sess=${json.token}; `));
      expect(text).not.toMatch(/argon2|hash/i);
    }
  });

  test.each(["closed", "code"])("when it is %s nobody comes in without being let in", async (mode) => {
    const fresh = await startApp({ SIGNUP: mode, ...(mode === "code" && { SIGNUP_CODE: "open sesame" }) });
    const signup = (fields: Record<string, unknown>, encode = encodings.json) =>
      fresh.call("/user/signup", encode({ username: "newcomer", password: PASSWORD, ...fields }));
    for (const [, encode] of everyEncoding) {
      const code = mode === "closed" ? "signup_closed" : "signup_code";
      for (const given of [undefined, "", "open", "open sesamE", "open sesame ", "öpen sesame"])
        expectRefusal(await signup(given === undefined ? {} : { signup_code: given }, encode), 403, code);
    }
    expectRefusal(await login(fresh, "newcomer", PASSWORD), 401, "wrong_password");
    if (mode === "code") {
      const answer = await signup({ signup_code: "open sesame" });
      expect(answer).toMatchObject({ status: 200, json: { user: { admin: true } } });
    } else expectRefusal(await signup({ signup_code: "open sesame" }), 403, "signup_closed");
    await fresh.close();
  });

  const names: [why: string, name: unknown][] = [
    ["Cyrillic", "Аdmin"],
    ["mathematical letters", "ᴮᴵᴳ"],
    ["full width", "ａｌｉｃｅ"],
    ["a Turkish capital", "İstanbul"],
    ["a Kelvin sign", "\u212aelvin"],
    ["a soft hyphen", "ali\u00adce"],
    ["a zero-width space", "ali\u200bce"],
    ["a space", "ali ce"],
    ["a space in front", " alice"],
    ["a line break", "alice\n"],
    ["a colon", "ali:ce"],
    ["a slash", "ali/ce"],
    ["too short", "ab"],
    ["too long", "a".repeat(65)],
    ["empty", ""],
    ["an emoji", "ali😀ce"],
    ["a number", 12345],
    ["a list", ["alice"]],
    ["null", null],
    ["admin", "Admin"],
    ["root", "ROOT"],
    ["system", "system"],
    ["assistant", "assistant"],
    ["anonymous", "anonymous"],
  ];
  test.each(names)("a username that is %s is refused", async (_why, username) => {
    const answers = [await app.call("/user/signup", { body: { username, password: PASSWORD } })];
    if (typeof username === "string") {
      answers.push(await app.call("/user/signup", encodings.form({ username, password: PASSWORD })));
      answers.push(await app.call("/user/update", { token: alice.token, body: { username } }));
    }
    for (const answer of answers) {
      expectRefusal(answer, 400, "invalid_input");
      expect(answer.json.error.param).toBe("username");
    }
  });

  test("a username has one canonical form, and any capitals sign in", async () => {
    const name = `Bob.Von+Der_Heide@Example-${process.pid}`;
    const { json } = await app.call("/user/signup", { body: { username: name, password: PASSWORD } });
    expect(json.user.username).toBe(name.toLowerCase());
    for (const spelling of [name, name.toLowerCase(), name.toUpperCase()])
      expect((await login(app, spelling, PASSWORD)).json.user.id).toBe(json.user.id);
    expectRefusal(await app.call("/user/signup", { body: { username: name.toUpperCase(), password: PASSWORD } }), 409);
    expectRefusal(await app.call("/user/update", { token: alice.token, body: { username: name } }), 409, "username_taken");
  });

  test.each([
    ["7 characters", "1234567"],
    ["257 characters", "x".repeat(257)],
    ["a number", 12345678],
    ["none", undefined],
  ])("a password of %s is refused", async (_why, password) => {
    const answer = await app.call("/user/signup", { body: { username: "nobody-yet", password } });
    expectRefusal(answer, 400, "invalid_input");
    expect(answer.json.error.param).toBe("password");
  });

  test("a password may hold anything that is text, and is compared exactly", async () => {
    for (const [n, password] of ["  пароль из слов  ", '😀 quote" and \\ and \n line', "x".repeat(256)].entries()) {
      const username = `odd-password-${n}-${process.pid}`;
      expect((await app.call("/user/signup", { body: { username, password } })).status).toBe(200);
      expect((await login(app, username, password)).status).toBe(200);
      expectRefusal(await login(app, username, `${password} `.slice(0, 256).replace(/x$/, "y")), 401, "wrong_password");
    }
  });
});

describe("sign-in", () => {
  test("an unknown user, a wrong password and a disabled user look alike and take as long", async () => {
    const fresh = await startApp({ SIGNIN_FAILURES: "1000" });
    const known = await fresh.person();
    const disabled = await fresh.person();
    const { store } = fresh.deps;
    await store.atomic((q) => [users.setDisabled(q, store, disabled.id, new Date())]);
    const tries: Record<string, () => Promise<Answer>> = {
      known: () => login(fresh, known.username, "not the password"),
      unknown: () => login(fresh, "nobody.at.all", PASSWORD),
      impossible: () => login(fresh, "no body: at/all ☠", PASSWORD),
      disabled: () => login(fresh, disabled.username, PASSWORD),
    };
    const took: Record<string, number[]> = {};
    const looks: unknown[] = [];
    for (let round = 0; round < 5; round++) {
      for (const [name, attempt] of Object.entries(tries)) {
        const startedMs = performance.now();
        const answer = await attempt();
        took[name] = [...(took[name] ?? []), performance.now() - startedMs];
        expectRefusal(answer, 401, "wrong_password");
        expect(answer.headers.get("set-cookie")).toBeNull();
        looks.push(seen(answer));
      }
    }
    for (const look of looks) expect(look).toEqual(looks[0]);
    // A refusal without a hash takes a tenth of one with; the median of five is not misled by a busy machine.
    const median = (name: string) => took[name]?.sort((a, b) => a - b)[2] ?? 0;
    for (const name of Object.keys(tries)) expect(median(name) / median("known")).toBeGreaterThan(0.5);
    await fresh.close();
  });

  test("a client's own session value is never adopted", async () => {
    const chosen = mintToken("session").token;
    for (const [, present] of everyChannel) {
      const headers = present({ ...alice, token: chosen });
      const username = `fixed-${Math.random().toString(36).slice(2)}`;
      const answers = [
        await app.call("/user/signup", { body: { username, password: PASSWORD }, headers }),
        await app.call("/user/login", { body: { username, password: PASSWORD }, headers }),
        await app.call("/user/login", { body: { username, password: PASSWORD, token: chosen, sess: chosen, session: chosen } }),
      ];
      for (const { status, json } of answers) {
        expect(status).toBe(200);
        expect(json.token).not.toBe(chosen);
      }
      expect(new Set(answers.map(({ json }) => json.token)).size).toBe(3);
    }
    expect(await isAlive(app, chosen)).toBe(false);
  });

  test("signing in with another's session makes a new one, and leaves theirs as it was", async () => {
    const victim = await app.person();
    for (const [, present] of everyChannel) {
      const { status, json } = await login(app, alice.username, PASSWORD, present(victim));
      expect({ status, user: json.user.id }).toEqual({ status: 200, user: alice.id });
      expect(json.token).not.toBe(victim.token);
    }
    expect((await session(app, channels.bearer(victim))).json.user.id).toBe(victim.id);
  });

  test("no answer to a sign-in tells its password or token to the audit log", async () => {
    const answer = await login(app, alice.username, PASSWORD);
    expect(await eventOf(app, answer)).toMatchObject({ userId: alice.id, requestBody: null, responseBody: null, status: 200 });
    const failed = await login(app, alice.username, "not the password");
    expect(await eventOf(app, failed)).toMatchObject({ userId: alice.id, errorCode: "wrong_password", requestBody: null });
    await login(app, alice.username, PASSWORD);
  });
});

describe("a credential", () => {
  const targets = { "an endpoint": "/user/session", "the relay": "/v1/models", "the relay by its long name": "/proxy/v1/models" };
  const everyTarget = Object.entries(targets);

  test.each(everyTarget)("is taken on every channel by %s", async (_name, target) => {
    const key = { ...alice, token: (await makeKey(app, alice.token)).token };
    for (const [, present] of everyChannel)
      for (const person of [alice, key]) expect((await app.call(target, { headers: present(person) })).status).toBe(200);
    for (const authorization of [`bearer ${alice.token}`, `BEARER   ${alice.token}  `, basic(alice.username, alice.token)])
      expect((await app.call(target, { headers: { authorization } })).status).toBe(200);
    for (const cookie of [`a=b; sess=${alice.token}; c=d`, `sess="${alice.token}"`, `sess=${alice.token};sess=${alice.token}`])
      expect((await app.call(target, { headers: { cookie } })).status).toBe(200);
  });

  const wrong = (): [why: string, headers: Record<string, string>][] => {
    const { token, username } = alice;
    return [
      ["an empty bearer", { authorization: "Bearer" }],
      ["a bearer of spaces", { authorization: "Bearer    " }],
      ["a token of 10 KB", { authorization: `Bearer ${"x".repeat(10_240)}` }],
      ["a cookie of 10 KB", { cookie: `sess=${"x".repeat(10_240)}` }],
      ["a wrong checksum", { authorization: `Bearer ${token.slice(0, -1)}${token.endsWith("0") ? "1" : "0"}` }],
      ["a token cut short", { authorization: `Bearer ${token.slice(0, -1)}` }],
      ["a token with more behind", { authorization: `Bearer ${token}0` }],
      ["other capitals", { authorization: `Bearer ${token.toUpperCase()}` }],
      ["another kind's prefix", { authorization: `Bearer pgk_${token.slice(4)}` }],
      ["two tokens in one", { authorization: `Bearer ${token}, ${token}` }],
      ["no scheme", { authorization: token }],
      ["another scheme", { authorization: `Token ${token}` }],
      ["digest", { authorization: 'Digest username="alice"' }],
      ["a password by Basic", { authorization: basic(username, PASSWORD) }],
      ["Basic without a colon", { authorization: `Basic ${Buffer.from(token).toString("base64")}` }],
      ["Basic that is not base64", { authorization: "Basic %%%" }],
      ["empty Basic", { authorization: "Basic" }],
      ["an empty cookie", { cookie: "sess=" }],
      ["a cookie of another name", { cookie: `session=${token}; SESS=${token}; xsess=${token}` }],
      ["a path of a file", { authorization: "Bearer ../../etc/passwd" }],
      ["SQL", { authorization: "Bearer ' or 1=1 --" }],
    ];
  };
  const whys = ["an empty bearer", "a bearer of spaces", "a token of 10 KB", "a cookie of 10 KB", "a wrong checksum"];
  const others = [
    "a token cut short",
    "a token with more behind",
    "other capitals",
    "another kind's prefix",
    "two tokens in one",
  ];
  const schemes = ["no scheme", "another scheme", "digest", "a password by Basic", "Basic without a colon"];
  const rest = [
    "Basic that is not base64",
    "empty Basic",
    "an empty cookie",
    "a cookie of another name",
    "a path of a file",
    "SQL",
  ];
  test.each([...whys, ...others, ...schemes, ...rest])("%s is refused", async (why) => {
    const [, headers] = wrong().find(([name]) => name === why) ?? [];
    upstream.reset();
    for (const [, target] of everyTarget)
      expectRefusal(await app.call(target, { headers: headers ?? {} }), 401, "unauthenticated");
    expect(upstream.requests).toHaveLength(0);
  });

  test("noise never reaches the store, and what could be a token does", async () => {
    const down = await startApp({ API_URL: upstream.url });
    await down.deps.store.close();
    for (const [, headers] of wrong())
      for (const [, target] of everyTarget) expectRefusal(await down.call(target, { headers }), 401, "unauthenticated");
    for (const kind of ["session", "key"] as const)
      for (const [, present] of everyChannel)
        for (const [, target] of everyTarget) {
          const answer = await down.call(target, { headers: present({ ...alice, token: mintToken(kind).token }) });
          expectRefusal(answer, 503, "store_unavailable");
          expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
        }
    await down.close();
  });

  test.each(everyTarget)("by Basic has its own user's name, for %s", async (_name, target) => {
    upstream.reset();
    for (const username of ["", admin.username, `${alice.username}x`, "nobody", alice.id]) {
      const answer = await app.call(target, { headers: { authorization: basic(username, alice.token) } });
      expectRefusal(answer, 401, "unauthenticated");
      // A token is being tried under another name: that is worth a row.
      expect(await eventOf(app, answer)).toMatchObject({ status: 401, userId: alice.id });
    }
    expect(upstream.requests).toHaveLength(0);
  });

  test.each(everyTarget)("is one: two different ones are refused by %s", async (_name, target) => {
    const [mine, theirs] = [`Bearer ${alice.token}`, `Bearer ${admin.token}`];
    const both = (...lines: string[]) =>
      ask(app.url, request([`GET ${target} HTTP/1.1`, "Host: a", "Connection: close", ...lines]));
    expectRefusal(await both(`Authorization: ${mine}`, `Authorization: ${theirs}`), 400, "two_credentials");
    expectRefusal(await both(`Authorization: ${mine}`, `Authorization: ${basic(admin.username, admin.token)}`), 400);
    expectRefusal(await both(`Authorization: ${mine}`, "Authorization: Bearer"), 400, "two_credentials");
    expectRefusal(await both(`Cookie: sess=${alice.token}; sess=${admin.token}`), 400, "two_credentials");
    expectRefusal(await both(`Cookie: sess=${alice.token}`, `Cookie: sess=${admin.token}`), 400, "two_credentials");
    // The same one twice is one, under one name.
    expect((await both(`Authorization: ${mine}`, `Authorization: ${mine}`)).status).toBe(200);
    expect((await both(`Authorization: ${mine}`, `Authorization: ${basic(alice.username, alice.token)}`)).status).toBe(200);
    expectRefusal(await both(`Authorization: ${mine}`, `Authorization: ${basic("nobody", alice.token)}`), 401);
    const twoNames = [basic(alice.username, alice.token), basic("nobody", alice.token)];
    expectRefusal(await both(...twoNames.map((it) => `Authorization: ${it}`)), 400, "two_credentials");
  });

  test("that was chosen beats the cookie that a browser adds", async () => {
    const cookie = `sess=${admin.token}`;
    for (const authorization of [`Bearer ${alice.token}`, basic(alice.username, alice.token)])
      expect((await session(app, { authorization, cookie })).json.user.id).toBe(alice.id);
    for (const authorization of ["Bearer", "Bearer nonsense", `Bearer ${mintToken("session").token}`, "Basic"])
      expectRefusal(await session(app, { authorization, cookie }), 401, "unauthenticated");
  });

  test("in the address is none", async () => {
    for (const [, target] of everyTarget)
      for (const name of ["token", "access_token", "sess", "api_key", "authorization"])
        expectRefusal(await app.call(`${target}?${name}=${alice.token}`), 401, "unauthenticated");
    expectRefusal(await app.call(`/user/logout?token=${alice.token}`, { method: "POST" }), 400, "invalid_input");
    const query = new URLSearchParams({ username: alice.username, password: PASSWORD });
    const answer = await app.call(`/user/login?${query}`, { method: "POST" });
    expectRefusal(answer, 400, "invalid_input");
    expect(answer.json.error.param).toBe("password");
    expect(await isAlive(app, alice.token)).toBe(true);
  });
});

describe("throttles", () => {
  test("five wrong passwords delay the next try, longer each time up to 15 minutes, and never for good", async () => {
    const { app, pass } = await startClocked();
    const person = await app.person();
    const bystander = await app.person();
    const key = await makeKey(app, person.token);
    const wrong = () => login(app, person.username, "not the password");
    for (let n = 0; n < 5; n++) expectRefusal(await wrong(), 401, "wrong_password");
    for (const seconds of [15, 30, 60, 120, 240, 480, 900, 900]) {
      for (const password of [PASSWORD, "not the password"]) {
        const answer = await login(app, person.username.toUpperCase(), password);
        expectRefusal(answer, 429, "rate_limited");
        expect(answer.headers.get("retry-after")).toBe(String(seconds));
      }
      const change = { password: PASSWORD, new_password: OTHER_PASSWORD };
      expectRefusal(await app.call("/user/password/update", { token: person.token, body: change }), 429, "rate_limited");
      // Who is signed in already, and who is somebody else, never notices.
      expect(await isAlive(app, person.token)).toBe(true);
      expect(await isAlive(app, key.token)).toBe(true);
      pass(seconds * 1000 - 1);
      expectRefusal(await wrong(), 429, "rate_limited");
      pass(1);
      expectRefusal(await wrong(), 401, "wrong_password");
    }
    expect((await login(app, bystander.username, PASSWORD)).status).toBe(200);
    pass(15 * MINUTE);
    expect((await login(app, person.username, PASSWORD)).status).toBe(200);
    // The right password wipes the slate.
    for (let n = 0; n < 4; n++) expectRefusal(await wrong(), 401, "wrong_password");
    expect((await login(app, person.username, PASSWORD)).status).toBe(200);
    await app.close();
  });

  test("failures long ago do not count, and a name that nobody has is delayed like any other", async () => {
    const { app, pass } = await startClocked({ SIGNIN_FAILURES: "2" });
    await app.person();
    for (let round = 0; round < 3; round++) {
      expectRefusal(await login(app, "nobody.here", PASSWORD), 401, "wrong_password");
      pass(15 * MINUTE + 1);
    }
    expectRefusal(await login(app, "nobody.here", PASSWORD), 401, "wrong_password");
    expectRefusal(await login(app, "nobody.here", PASSWORD), 401, "wrong_password");
    expectRefusal(await login(app, "Nobody.Here", PASSWORD), 429, "rate_limited");
    pass(15_000 + 15 * MINUTE + 1);
    expectRefusal(await login(app, "nobody.here", PASSWORD), 401, "wrong_password");
    expectRefusal(await login(app, "nobody.here", PASSWORD), 401, "wrong_password");
    const answer = await login(app, "nobody.here", PASSWORD);
    expect({ status: answer.status, after: answer.headers.get("retry-after") }).toEqual({ status: 429, after: "15" });
    await app.close();
  });

  test("a wrong current password counts like a failed sign-in", async () => {
    const { app } = await startClocked({ SIGNIN_FAILURES: "2" });
    const person = await app.person();
    const change = (password: string) =>
      app.call("/user/password/update", { token: person.token, body: { password, new_password: OTHER_PASSWORD } });
    expectRefusal(await change("not the password"), 401, "wrong_password");
    expectRefusal(await change("not the password"), 401, "wrong_password");
    expectRefusal(await change(PASSWORD), 429, "rate_limited");
    expectRefusal(await login(app, person.username, PASSWORD), 429, "rate_limited");
    expect(await isAlive(app, person.token)).toBe(true);
    await app.close();
  });

  describe("by address", () => {
    let clocked: Awaited<ReturnType<typeof startClocked>>;
    let person: Person;
    beforeAll(async () => {
      clocked = await startClocked({ TRUST_HOPS: "1", SIGNIN_PER_MINUTE: "2", SIGNIN_FAILURES: "1000" });
      person = await clocked.app.person();
    });
    afterAll(() => clocked.app.close());

    const from = (forwarded: string) => login(clocked.app, person.username, PASSWORD, { "x-forwarded-for": forwarded });
    const spent = async (forwarded: string) => {
      const answer = await from(forwarded);
      expectRefusal(answer, 429, "rate_limited");
      expect(answer.headers.get("retry-after")).toBe("60");
    };

    const same: [what: string, spellings: string[], other: string][] = [
      [
        "what the platform appended, whatever stands before it",
        ["1.1.1.1, 9.9.9.9", "2.2.2.2,9.9.9.9", "9.9.9.9"],
        "9.9.9.9, 1.1.1.1",
      ],
      ["IPv4, also inside IPv6", ["9.9.8.1", "::ffff:9.9.8.1", "::FFFF:909:801", "0:0:0:0:0:ffff:9.9.8.1"], "::ffff:9.9.8.2"],
      ["an address with its port", ["9.9.7.1:1234", "9.9.7.1:4321", "9.9.7.1"], "9.9.7.2:1234"],
      [
        "one IPv6 network",
        ["2001:db8:1:2::1", "2001:DB8:1:2:ffff:1:2:3", "2001:0db8:0001:0002::", "[2001:db8:1:2::9]:443"],
        "2001:db8:1:3::1",
      ],
      ["one IPv6 network with zeros", ["2001:db8::1", "2001:db8:0:0:8::1", "2001:db8::ffff:0:0"], "2001:db8:0:1::1"],
      ["what is no address, as the connection's", ["unknown", "", "9.9.9.9, ", "300.1.1.1", "1.1.1.1, -", "::::"], "7.7.7.7"],
    ];
    test.each(same)("%s counts as one", async (_what, spellings, other) => {
      const [first = "", second = "", ...more] = spellings;
      for (const spelling of [first, second]) expect((await from(spelling)).status).toBe(200);
      for (const spelling of [first, second, ...more]) await spent(spelling);
      expect((await from(other)).status).toBe(200);
    });

    test("an address is let in again after a minute, and a session from it works all the time", async () => {
      const forwarded = "9.9.6.1";
      for (let n = 0; n < 2; n++) expect((await from(forwarded)).status).toBe(200);
      await spent(forwarded);
      expect((await session(clocked.app, { ...channels.bearer(person), "x-forwarded-for": forwarded })).status).toBe(200);
      clocked.pass(MINUTE);
      expectRefusal(await from(forwarded), 429, "rate_limited");
      clocked.pass(1);
      expect((await from(forwarded)).status).toBe(200);
    });

    test("what is logged of an address is the hop that is trusted", async () => {
      const headers = { ...channels.bearer(person), "x-forwarded-for": "6.6.6.6, ::ffff:102:304" };
      expect(await eventOf(clocked.app, await session(clocked.app, headers))).toMatchObject({ address: "1.2.3.4" });
    });
  });

  test("without a trusted hop the header says nothing", async () => {
    const { app } = await startClocked({ SIGNIN_PER_MINUTE: "2" });
    const { username } = await app.person();
    const from = (n: number) => login(app, username, PASSWORD, { "x-forwarded-for": `8.8.8.${n}` });
    for (const n of [1, 2]) expect((await from(n)).status).toBe(200);
    expectRefusal(await from(3), 429, "rate_limited");
    await app.close();
  });

  test("with two trusted hops the second from the right counts", async () => {
    const { app } = await startClocked({ TRUST_HOPS: "2", SIGNIN_PER_MINUTE: "1" });
    const { username } = await app.person();
    const from = (forwarded: string) => login(app, username, PASSWORD, { "x-forwarded-for": forwarded });
    expect((await from("1.1.1.1, 8.8.8.1, 10.0.0.1")).status).toBe(200);
    expectRefusal(await from("2.2.2.2, 8.8.8.1, 10.0.0.2"), 429, "rate_limited");
    expect((await from("8.8.8.2, 10.0.0.1")).status).toBe(200);
    // Fewer than there should be: the header is somebody's invention.
    expect((await from("8.8.8.3")).status).toBe(200);
    expectRefusal(await from("8.8.8.4"), 429, "rate_limited");
    await app.close();
  });

  test("signups are limited by address and hour, whether they succeed or not", async () => {
    const { app, pass } = await startClocked({ SIGNUP_PER_HOUR: "2", TRUST_HOPS: "1" });
    const signup = (username: string, address: string) =>
      app.call("/user/signup", { body: { username, password: PASSWORD }, headers: { "x-forwarded-for": address } });
    expect((await signup("first-of-all", "9.9.9.9")).status).toBe(200);
    expectRefusal(await signup("first-of-all", "9.9.9.9"), 409);
    const refused = await signup("second-of-all", "9.9.9.9");
    expectRefusal(refused, 429, "rate_limited");
    expect(refused.headers.get("retry-after")).toBe("3600");
    expect((await signup("second-of-all", "9.9.9.8")).status).toBe(200);
    pass(60 * MINUTE + 1);
    expect((await signup("third-of-all", "9.9.9.9")).status).toBe(200);
    await app.close();
  });
});

describe("hashing", () => {
  test("more than cores and a queue of 32 are told to come back, and too long a password is refused without waiting", async () => {
    const fresh = await startApp({ SIGNIN_FAILURES: "1000" });
    const person = await fresh.person();
    expect((await login(fresh, person.username, PASSWORD)).status).toBe(200);
    const most = availableParallelism() + 32;
    const release = await holdThreads();
    const surplus = 8;
    const tries = Array.from({ length: most + surplus }, (_, n) =>
      login(fresh, n % 2 ? person.username : `nobody-${n}`, n % 2 ? PASSWORD : "whatever it is"),
    );
    await Promise.race(tries);
    // Nobody could hash now; what needs no hash is answered all the same.
    const long = await Promise.all([
      login(fresh, person.username, "x".repeat(257)),
      login(fresh, person.username, "x".repeat(60_000)),
      login(fresh, person.username, "x".repeat(1_000_000)),
      fresh.call("/user/login", encodings.form({ username: person.username, password: "x".repeat(1_000_000) })),
      fresh.call("/user/signup", { body: { username: "long-password", password: "x".repeat(1_000_000) } }),
      session(fresh, channels.bearer(person)),
    ]);
    expect(long.map(({ status }) => status)).toEqual([400, 400, 413, 413, 413, 200]);
    await release();
    const answers = await Promise.all(tries);
    const refused = answers.filter(({ status }) => status === 503);
    expect(refused.length).toBe(surplus);
    for (const answer of refused) {
      expectRefusal(answer, 503, "busy");
      expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    }
    const served = answers.flatMap(({ status }, n) => (status === 503 ? [] : [[n % 2 ? 200 : 401, status]]));
    for (const [expected, status] of served) expect(status).toBe(expected);
    await fresh.close();
  });
});

describe("a password change", () => {
  const change = (app: App, headers: Record<string, string>, fields = { password: PASSWORD, new_password: OTHER_PASSWORD }) =>
    app.call("/user/password/update", { body: fields, headers });

  test.each(everyChannel)(
    "by %s ends every other sign-in at once, and keeps this one and API keys",
    async (_channel, present) => {
      const person = await app.person();
      const [second, third] = [await signInAgain(app, person), await signInAgain(app, person)];
      const key = await makeKey(app, person.token);
      expect(await change(app, present(second))).toMatchObject({ status: 200, json: {} });
      for (const [, other] of everyChannel)
        for (const ended of [person, third]) expectRefusal(await session(app, other(ended)), 401, "unauthenticated");
      expectRefusal(await app.call("/v1/models", { token: person.token }), 401, "unauthenticated");
      expect(await isAlive(app, second.token)).toBe(true);
      expect(await isAlive(app, key.token)).toBe(true);
      expectRefusal(await login(app, person.username, PASSWORD), 401, "wrong_password");
      expect((await login(app, person.username, OTHER_PASSWORD)).status).toBe(200);
    },
  );

  test("needs the current password, a new one that is good enough, and a sign-in", async () => {
    const person = await app.person();
    const key = await makeKey(app, person.token);
    expectRefusal(
      await change(app, channels.bearer(person), { password: "wrong", new_password: OTHER_PASSWORD }),
      401,
      "wrong_password",
    );
    for (const new_password of ["short", "x".repeat(257)])
      expectRefusal(await change(app, channels.bearer(person), { password: PASSWORD, new_password }), 400, "invalid_input");
    for (const [, present] of everyChannel)
      expectRefusal(await change(app, present({ ...person, token: key.token })), 403, "forbidden");
    expect((await login(app, person.username, PASSWORD)).status).toBe(200);
  });

  test("of two at the same time one is made, and who made it stays signed in", async () => {
    const first = await app.person();
    const both = [first, await signInAgain(app, first)];
    const passwords = ["the first new password", "the second new password"];
    const answers = await Promise.all(
      both.map((it, n) => change(app, channels.bearer(it), { password: PASSWORD, new_password: passwords[n] as string })),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 401]);
    const winner = answers.findIndex(({ status }) => status === 200);
    for (const n of [0, 1]) {
      expect((await login(app, first.username, passwords[n] as string)).status).toBe(n === winner ? 200 : 401);
      expect(await isAlive(app, both[n]?.token ?? "")).toBe(n === winner);
    }
  });

  test("a sign-in with the old password that is under way does not survive it", async () => {
    const fresh = await startApp({ SIGNIN_FAILURES: "1000" });
    const person = await fresh.person();
    let [password, next] = [PASSWORD, OTHER_PASSWORD];
    for (let round = 0; round < 2; round++) {
      // Passwords are checked in turn. When the first strangers have had theirs, the change has checked the old password and
      // waits for the hash of the new one; behind that comes who still knows the old one.
      const changing = change(fresh, channels.bearer(person), { password, new_password: next });
      const strangers = Array.from({ length: availableParallelism() + 6 }, () => login(fresh, "somebody.else", PASSWORD));
      await Promise.all(strangers.slice(0, 2));
      const signIns = await Promise.all([1, 2].map(() => login(fresh, person.username, password)));
      expect((await changing).status).toBe(200);
      await Promise.all(strangers);
      for (const signIn of signIns) {
        expect([200, 401]).toContain(signIn.status);
        if (signIn.status === 200) expect(await isAlive(fresh, signIn.json.token)).toBe(false);
      }
      [password, next] = [next, password];
    }
    await fresh.close();
  });
});

describe("logout", () => {
  const gone = async (person: Person) => {
    for (const [, present] of everyChannel) expectRefusal(await session(app, present(person)), 401, "unauthenticated");
    expectRefusal(await app.call("/v1/models", { token: person.token }), 401, "unauthenticated");
  };
  const forms: [form: string, (person: Person) => Parameters<App["call"]>[1]][] = [
    ["the cookie", (person) => ({ method: "POST", headers: channels.cookie(person) })],
    ["a bearer token", (person) => ({ method: "POST", headers: channels.bearer(person) })],
    ["Basic", (person) => ({ method: "POST", headers: channels.basic(person) })],
    ["a token in JSON", ({ token }) => ({ body: { token } })],
    ["a token in a form", ({ token }) => encodings.form({ token })],
    ["a token in JSON under a form's type", ({ token }) => ({ ...encodings.form({}), body: JSON.stringify({ token }) })],
    ["the cookie, and the same token", (person) => ({ body: { token: person.token }, headers: channels.cookie(person) })],
  ];
  test.each(forms)("by %s ends that session at once, and no other", async (_form, options) => {
    const person = alice;
    const ending = await signInAgain(app, person);
    const answer = await app.call("/user/logout", options(ending));
    expect(answer).toMatchObject({ status: 200, json: {} });
    expect(answer.headers.get("set-cookie")).toMatch(/^sess=; Path=\/; Max-Age=0; HttpOnly/);
    expect(await eventOf(app, answer)).toMatchObject({ userId: person.id, requestBody: null });
    await gone(ending);
    expect(await isAlive(app, person.token)).toBe(true);
    expectRefusal(await app.call("/user/logout", options(ending)), 401, "unauthenticated");
  });

  test("of another session than the one presented is refused, and both live on", async () => {
    const other = await signInAgain(app, admin);
    for (const [, present] of everyChannel)
      expectRefusal(
        await app.call("/user/logout", { body: { token: other.token }, headers: present(alice) }),
        400,
        "two_credentials",
      );
    expect(await isAlive(app, other.token)).toBe(true);
    expect(await isAlive(app, alice.token)).toBe(true);
  });

  test.each(["", "nonsense", mintToken("session").token, "x".repeat(256)])("with the token %j nothing ends", async (token) => {
    expectRefusal(await app.call("/user/logout", { body: { token } }), 401, "unauthenticated");
    expectRefusal(await app.call("/user/logout", { body: { token }, headers: channels.bearer(alice) }), 401, "unauthenticated");
    expect(await isAlive(app, alice.token)).toBe(true);
  });
});

describe("a sign-in's end", () => {
  test("moves on with use, up to 30 days, and comes by itself without", async () => {
    const { app, pass } = await startClocked();
    const person = await app.person();
    const idle = await signInAgain(app, person);
    const used = async () => {
      expect(await isAlive(app, person.token)).toBe(true);
      await app.deps.ledger.settled(5_000);
    };
    for (const days of [6, 6.9, 6.9, 6.9]) {
      pass(days * DAY);
      await used();
    }
    expectRefusal(await session(app, channels.bearer(idle)), 401, "unauthenticated");
    // 26.7 days are over; use no longer moves it beyond the thirtieth.
    pass(3.2 * DAY);
    await used();
    pass(0.1 * DAY - 1);
    expect(await isAlive(app, person.token)).toBe(true);
    pass(1);
    for (const [, present] of everyChannel) expectRefusal(await session(app, present(person)), 401, "unauthenticated");
    await app.close();
  });

  test("comes to the millisecond, and SESSION_DAYS sets it", async () => {
    const { app, pass } = await startClocked({ SESSION_DAYS: "60" });
    const { token, username } = await app.person();
    const { json, headers } = await login(app, username, PASSWORD);
    expect(json.expires_at).toBe(new Date(START + 60 * DAY).toISOString());
    expect(headers.get("set-cookie")).toContain(`Max-Age=${60 * 86_400};`);
    pass(60 * DAY - 1);
    expectRefusal(await session(app, { authorization: `Bearer ${token}0` }), 401);
    expect(await isAlive(app, token)).toBe(true);
    pass(1);
    expect(await isAlive(app, token)).toBe(false);
    await app.close();
  });

  test("comes at once when the user is disabled, for sign-ins and API keys, on every channel", async () => {
    const person = await app.person();
    const key = await makeKey(app, person.token);
    const { store } = app.deps;
    await store.atomic((q) => [users.setDisabled(q, store, person.id, new Date())]);
    for (const token of [person.token, key.token])
      for (const [, present] of everyChannel)
        for (const target of ["/user/session", "/v1/models"])
          expectRefusal(await app.call(target, { headers: present({ ...person, token }) }), 401, "unauthenticated");
    expectRefusal(await app.call("/user/logout", { body: { token: person.token } }), 401, "unauthenticated");
    expectRefusal(await login(app, person.username, PASSWORD), 401, "wrong_password");
  });
});

describe("an API key", () => {
  test("is shown once, known by its label and hint, and listed without its token", async () => {
    const person = await app.person();
    for (const [n, [, encode]] of everyEncoding.entries()) {
      const { body, headers } = encode({ label: `  Script ${n} ` });
      const answer = await app.call("/user/key/create", { body, headers: { ...headers, ...channels.bearer(person) } });
      const { token, key } = answer.json;
      expect(token).toMatch(/^pgk_[\w-]{43}[0-9a-z]{7}$/);
      expect(key).toMatchObject({ kind: "key", label: `Script ${n}`, hint: token.slice(-4), expires_at: null });
      const { json, text } = await app.call("/user/key/index", { token });
      expect(json.keys[0]).toEqual(key);
      expect(text).not.toContain(token);
      expect(await isAlive(app, token)).toBe(true);
    }
    expect((await app.call("/user/key/index", { token: person.token })).json.keys).toHaveLength(2);
    expect((await app.call("/user/key/index", { token: alice.token })).text).not.toContain("Script");
  });

  test("makes no other, whatever the channel", async () => {
    const key = await makeKey(app, alice.token);
    for (const [, present] of everyChannel)
      for (const [, encode] of everyEncoding) {
        const { body, headers } = encode({ label: "another" });
        const answer = await app.call("/user/key/create", {
          body,
          headers: { ...headers, ...present({ ...alice, token: key.token }) },
        });
        expectRefusal(answer, 403, "forbidden");
      }
  });

  test("that is deleted is refused at once; another's, a session's id and an unknown one are not there", async () => {
    const person = await app.person();
    const { token, key } = await makeKey(app, person.token);
    const remove = (id: string, token: string) => app.call("/user/key/delete", { token, body: { id } });
    const { json } = await app.call("/user/session", { token: person.token });
    const strange = [
      await remove(key.id, alice.token),
      await remove(key.id, admin.token),
      await remove(json.session.id, person.token),
      await remove("00000000-0000-7000-8000-000000000000", person.token),
    ];
    for (const answer of strange) {
      expectRefusal(answer, 404, "not_found");
      expect(seen(answer)).toEqual(seen(strange[0] as Answer));
    }
    expect(await isAlive(app, token)).toBe(true);
    expect((await remove(key.id, person.token)).status).toBe(200);
    for (const target of ["/user/session", "/v1/models"])
      for (const [, present] of everyChannel)
        expectRefusal(await app.call(target, { headers: present({ ...person, token }) }), 401, "unauthenticated");
    expectRefusal(await remove(key.id, person.token), 404, "not_found");
    expect(await isAlive(app, person.token)).toBe(true);
  });

  test("ends when its owner said, and use does not move that", async () => {
    const { app, pass } = await startClocked();
    const person = await app.person();
    const ends = new Date(START + 10 * DAY).toISOString();
    const { token, key } = await makeKey(app, person.token, { expires_at: ends });
    const lasting = await makeKey(app, person.token);
    expect(key.expires_at).toBe(ends);
    pass(5 * DAY);
    expect(await isAlive(app, token)).toBe(true);
    await app.deps.ledger.settled(5_000);
    pass(5 * DAY - 1);
    expect(await isAlive(app, token)).toBe(true);
    pass(1);
    expect(await isAlive(app, token)).toBe(false);
    expect((await app.call("/user/key/index", { token: lasting.token })).json.keys).toHaveLength(1);
    pass(1_000 * DAY);
    expect(await isAlive(app, lasting.token)).toBe(true);
    await app.close();
  });

  test.each([
    ["in the past", "2020-01-01"],
    ["no time", "soon"],
    ["a month that is none", "2035-13-01"],
    ["a day that is none", "2035-02-31"],
    ["a time with more behind", "2035-01-01T00:00:00Z (or so)"],
    ["a number", 1893456000000],
    ["empty", ""],
  ])("whose end is %s is not made", async (_why, expires_at) => {
    const answer = await app.call("/user/key/create", { token: alice.token, body: { label: "x", expires_at } });
    expectRefusal(answer, 400, "invalid_input");
    expect(answer.json.error.param).toBe("expires_at");
  });

  test.each(["", "   ", "x".repeat(129), "two\nlines", "a\u0007bell", 5, null])("labelled %j is not made", async (label) => {
    expectRefusal(await app.call("/user/key/create", { token: alice.token, body: { label } }), 400, "invalid_input");
  });
});

describe("one's own record", () => {
  const absent = "00000000-0000-7000-8000-000000000000";
  test.each(everyChannel)(
    "is one's own on %s; another's looks as if there were none, and an admin sees both",
    async (_name, present) => {
      const other = await app.person();
      for (const path of ["/user/read", "/user/update"]) {
        const about = (id: string, person: Person) => app.call(path, { body: { id }, headers: present(person) });
        expect((await about(alice.id, alice)).json.user.id).toBe(alice.id);
        expect((await about(other.id, admin)).json.user.id).toBe(other.id);
        const [theirs, nobodys] = [await about(other.id, alice), await about(absent, alice)];
        expectRefusal(theirs, 404, "not_found");
        expect(seen(theirs)).toEqual(seen(nobodys));
        expectRefusal(await about(absent, admin), 404, "not_found");
      }
      const renamed = await app.call("/user/update", { body: { id: other.id, username: "stolen" }, headers: present(alice) });
      expectRefusal(renamed, 404, "not_found");
      const promoted = await app.call("/user/update", { body: { admin: true, name: "Me" }, headers: present(alice) });
      expect(promoted.json.user).toMatchObject({ admin: false, name: "Me" });
    },
  );

  test("under a new name Basic takes the new one only", async () => {
    const person = await app.person();
    const username = `renamed-${person.username}`;
    expect((await app.call("/user/update", { token: person.token, body: { username } })).json.user.username).toBe(username);
    expectRefusal(await session(app, channels.basic(person)), 401, "unauthenticated");
    expect((await session(app, channels.basic({ ...person, username }))).status).toBe(200);
    expectRefusal(await login(app, person.username, PASSWORD), 401, "wrong_password");
    expect((await login(app, username, PASSWORD)).status).toBe(200);
  });
});

test("no password and no token is in the store's files or in the log", async () => {
  const fresh = await startApp({ API_URL: upstream.url });
  const planted = ["first-planted-password", "second-planted-password", "wrong-planted-password", "code-planted-secret"];
  const [first, second, wrong, code] = planted as [string, string, string, string];
  const signup = await fresh.call("/user/signup", { body: { username: "planter", password: first, signup_code: code } });
  const { token } = signup.json;
  const tokens = [token, (await login(fresh, "planter", first)).json.token, (await makeKey(fresh, token)).token];
  await login(fresh, "planter", wrong);
  await fresh.call("/user/login", encodings.form({ username: "planter", password: first, extra: first }));
  await fresh.call("/user/password/update", { token, body: { password: wrong, new_password: second } });
  await fresh.call("/user/password/update", { token, body: { password: first, new_password: second } });
  for (const name of ["token", "TOKEN", "Access_Token", "t%6fken", "x", "password", "new_password", "pass%77ord", "signup_code"])
    for (const [n, secret] of [...tokens, first].entries()) {
      if (name === "x" && secret === first) continue;
      const query = `a=1&${name}=${secret}&b=2`;
      const paths = ["/user/session", "/user/login", "/user/logout", "/v1/models"];
      const path = paths[n % paths.length] as string;
      await fresh.call(`${path}?${query}`, {
        token: tokens[2],
        method: path.endsWith("in") || path.endsWith("out") ? "POST" : "GET",
      });
    }
  await fresh.call("/user/logout", { body: { token: tokens[1] } });
  await fresh.deps.ledger.settled(5_000);
  const files = ["", "-wal", "-shm"].map((suffix) => readFileSync(fresh.file + suffix).toString("latin1"));
  const kept = [...files, JSON.stringify(fresh.lines)].join("\n");
  expect(kept).toContain("planter");
  expect(kept).toContain("/v1/models");
  for (const secret of [...planted, ...tokens]) expect(kept).not.toContain(secret);
  for (const piece of [...tokens].map((it) => it.slice(4, 24))) expect(kept).not.toContain(piece);
  expect(kept).not.toContain(KEY.slice(0, 16));
  await fresh.close();
});
