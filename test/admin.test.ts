import { once } from "node:events";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, test, vi } from "vitest";
import { search } from "../lib/repo/events.ts";
import { insert as insertSession } from "../lib/repo/sessions.ts";
import { count as countTry } from "../lib/repo/throttles.ts";
import { mintToken } from "../lib/token.ts";
import { type App, PASSWORD, type Person, startApp } from "./support/app.ts";
import { buildCommand, type Command } from "./support/command.ts";
import { type Recorded, startUpstream, type Upstream } from "./support/upstream.ts";

let upstream: Upstream;
let app: App;
/** The first user, and so an admin. */
let boss: Person;
/** The command beside the running server, on the same file. */
let command: Command;

beforeAll(async () => {
  upstream = await startUpstream();
  app = await startApp({ API_URL: upstream.url });
  boss = await app.person();
  command = await buildCommand({ DB_ADDRESS: `file:${app.file}` });
});
afterAll(async () => {
  command.remove();
  await app.close();
  await upstream.close();
});

const admin = (...words: string[]) => command.run(["admin", ...words]);
const adminReading = (input: string, ...words: string[]) => command.run(["admin", ...words], { input });
const chat = (model: string, content: string) => ({ model, messages: [{ role: "user", content }] });

// Each test starts several processes.
describe.concurrent("admin", { timeout: 60_000 }, () => {
  test("people are listed, as records for programs and as a table", async ({ expect }) => {
    const person = await app.person();
    const [records, shown] = await Promise.all([admin("list"), admin("list", "--format", "table")]);
    const found = records.json.find(({ username }) => username === person.username);
    expect(found).toMatchObject({ id: person.id, name: null, admin: false, disabled_at: null });
    expect(records.out).not.toContain("password");
    expect(shown.out).toMatch(/^ID +USERNAME +NAME +ADMIN/);
    expect(shown.out).toContain(`${person.id}  ${person.username}`);
  });

  test("a user is shown by id or name, with keys and usage, and without secrets", async ({ expect }) => {
    const person = await app.person();
    const { json: key } = await app.call("/user/key/create", { token: person.token, body: { label: "laptop" } });
    const [byName, byId] = await Promise.all([admin("user", person.username.toUpperCase()), admin("user", person.id)]);
    expect(byName.json).toEqual(byId.json);
    const [user] = byName.json;
    expect(user.sessions.map(({ kind, label }: Record<string, string>) => [kind, label])).toEqual([
      ["key", "laptop"],
      ["session", null],
    ]);
    expect(user.usage[0].requests).toBeGreaterThan(0);
    expect(byName.out).not.toContain(key.token.slice(0, -4));
    expect(byName.out).not.toContain("hash");
  });

  test("a created user signs in, with a password as argument, on standard input or made up", async ({ expect }) => {
    const [given, piped, made] = await Promise.all([
      admin("create", "Argued", "argued-password"),
      adminReading("piped password\n", "create", "piped"),
      adminReading("", "create", "made", "--format", "csv"),
    ]);
    expect(given.json[0]).toMatchObject({ username: "argued", admin: false });
    expect(given.out + piped.out + given.err + piped.err).not.toContain("password");
    const [, record = ""] = made.out.split("\r\n");
    for (const [username, password] of [
      ["argued", "argued-password"],
      ["piped", "piped password"],
      ["made", record.split(",").at(-1)],
    ]) {
      const { status } = await app.call("/user/login", { body: { username, password } });
      expect([username, status]).toEqual([username, 200]);
    }
  });

  test("a password by the rules of signup, a username too", async ({ expect }) => {
    const [short, shortPiped, reserved, dash] = await Promise.all([
      admin("create", "ruled", "short12"),
      adminReading("short12", "create", "ruled", "-"),
      admin("create", "admin", PASSWORD),
      admin("create", "ruled", "-short-and-secret"),
    ]);
    expect(short).toMatchObject({ code: 2, out: "", err: "The password is shorter than 8 characters.\n" });
    expect(shortPiped).toMatchObject({ code: 2, err: short.err });
    expect(reserved).toMatchObject({ code: 2, err: expect.stringContaining("It is reserved.") });
    expect(dash).toMatchObject({ code: 2, err: expect.not.stringContaining("secret") });
  });

  test("a reset ends every session and key at once, and lets a blocked user in", async ({ expect }) => {
    const person = await app.person();
    const { json: key } = await app.call("/user/key/create", { token: person.token, body: { label: "laptop" } });
    const login = (password: string) => app.call("/user/login", { body: { username: person.username, password } });
    for (let i = 0; i < 5; i++) await login("a wrong password");
    expect((await login(PASSWORD)).status).toBe(429);
    expect((await adminReading("another password", "reset", person.username)).code).toBe(0);
    for (const token of [person.token, key.token]) expect((await app.call("/user/session", { token })).status).toBe(401);
    expect((await login(PASSWORD)).status).toBe(401);
    expect((await login("another password")).status).toBe(200);
  });

  test("admin rights come and go with the next request, and the last admin stays unless forced", async ({ expect }) => {
    const read = async (token: string) => (await app.call("/system/events?limit=1", { token })).status;
    expect((await admin("create", "deputy", PASSWORD, "--admin")).json[0].admin).toBe(true);
    const { json: deputy } = await app.call("/user/login", { body: { username: "deputy", password: PASSWORD } });
    expect(await read(deputy.token)).toBe(200);
    expect((await admin("revoke", boss.username)).json[0].admin).toBe(false);
    expect(await read(boss.token)).toBe(403);
    const refused = await admin("revoke", "deputy");
    expect(refused).toMatchObject({ code: 1, out: "", err: expect.stringMatching(/last admin.*--force/) });
    expect(await read(deputy.token)).toBe(200);
    expect((await admin("revoke", "deputy", "--force")).code).toBe(0);
    expect(await read(deputy.token)).toBe(403);
    expect((await admin("grant", boss.username)).json[0].admin).toBe(true);
    expect(await read(boss.token)).toBe(200);
  });

  test("a disabled user is out at once, and a sign-in looks like a wrong password", async ({ expect }) => {
    const person = await app.person();
    const login = (password: string) => app.call("/user/login", { body: { username: person.username, password } });
    const shown = await admin("disable", person.username, "--format", "table");
    expect(shown.out).toBe(`${person.username} is disabled. Every session and API key of theirs has ended.\n`);
    expect((await app.call("/user/session", { token: person.token })).status).toBe(401);
    const [right, wrong] = await Promise.all([login(PASSWORD), login("a wrong password")]);
    expect([right.status, right.json.error.code]).toEqual([401, "wrong_password"]);
    expect({ ...wrong.json.error, request_id: "" }).toEqual({ ...right.json.error, request_id: "" });
    expect((await admin("enable", person.username)).json[0].disabled_at).toBe(null);
    expect((await login(PASSWORD)).status).toBe(200);
    expect((await app.call("/user/session", { token: person.token })).status).toBe(401);
  });

  test("events are filtered, and nothing that a stranger wrote moves a terminal or a spreadsheet", async ({ expect }) => {
    const person = await app.person();
    const evil = "\u009b31m\u202e=1+1\u001b]0;x\u0007";
    const started = new Date().toISOString();
    await app.call("/user/session?=1%2b1", { token: person.token });
    await app.call("/v1/chat/completions", { token: person.token, body: chat("gpt-evil", evil) });
    await vi.waitFor(async () => expect((await logged(person, "gpt-evil"))?.endedAt).toBeTruthy());
    const mine = ["events", "--user", person.username] as const;
    const [all, asked, csv, shown, other] = await Promise.all([
      admin(...mine, "--since", started),
      admin(...mine, "--model", "gpt-evil", "--status", "200", "--text", "=1+1", "--until", "2999-01-01", "--bodies"),
      admin("events", "--user", person.id, "--format", "csv", "--bodies", "--since", started),
      admin(...mine, "--bodies", "--format", "table", "--endpoint", "proxy.v1"),
      admin(...mine, "--chat", person.id, "--group", person.id),
    ]);
    expect(all.json.map(({ path }) => path)).toEqual(["/v1/chat/completions", "/user/session"]);
    expect(all.json[0]).not.toHaveProperty("request_body");
    expect(JSON.parse(asked.json[0].request_body).messages[0].content).toBe(evil);
    expect(asked.json).toHaveLength(1);
    expect(csv.out).toMatch(/^id,state,started_at,[a-z_,]+,request_body,response_body\r\n/);
    expect(csv.out).toContain(",'=1%2b1,");
    expect(shown.out).toContain("gpt-evil");
    expect(other).toMatchObject({ code: 0, json: [] });
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what must not come through.
    for (const { out } of [asked, csv, shown]) expect(out).not.toMatch(/[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]/);
  });

  test("following prints each event once it has ended, also one that was running before", async ({ expect }) => {
    const person = await app.person();
    let release = () => {};
    const asked = new Promise<void>((resolve) => {
      upstream.when(isFor("gpt-held"), async (_, res) => {
        const released = new Promise<void>((go) => {
          release = go;
        });
        resolve();
        await released;
        res.setHeader("content-type", "application/json").end('{"object":"chat.completion"}');
      });
    });
    const held = app.call("/v1/chat/completions", { token: person.token, body: chat("gpt-held", "wait") });
    await asked;
    const child = command.start(["admin", "events", "--user", person.username, "--follow", "--limit", "2"]);
    const printed = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async () => JSON.parse((await printed.next()).value);
    expect(await next()).toMatchObject({ endpoint: "user.signup" });
    await app.call("/user/login", { body: { username: person.username, password: "a wrong password" } });
    expect(await next()).toMatchObject({ endpoint: "user.login", state: "done", status: 401, user_id: person.id });
    release();
    await held;
    expect(await next()).toMatchObject({ model: "gpt-held", state: "done", status: 200 });
    child.kill("SIGINT");
    expect(await once(child, "exit")).toEqual([0, null]);
  });

  test("pruning deletes what is old, and nothing of it without RETENTION_DAYS", async ({ expect }) => {
    const old = new Date("2001-09-09T01:46:40Z");
    const { store, newId, random } = app.deps;
    const about = { startedAt: old, endpoint: "user.read", method: "GET", path: "/user", query: "", address: "::1" };
    const ids = Array.from({ length: 1_001 }, (_, i) => `00e8d4a5-1000-7000-8000-${String(i).padStart(12, "0")}`);
    await store.db.insert(store.events).values(ids.map((id) => ({ id, ...about })));
    const dates = { createdAt: old, expiresAt: old, endsAt: old };
    const session = { id: newId(), userId: boss.id, kind: "session" as const, label: null, ...dates };
    await insertSession(store.db, store, session, mintToken("session", random));
    await countTry(store.db, store, "signin:198.51.100.7", old, old);
    const kept = await admin("prune");
    expect(kept).toMatchObject({ code: 0, json: [{ events: 0, messages: 0, sessions: 1, tickets: 0, throttles: 1 }] });
    expect(kept.err).toBe("RETENTION_DAYS is 0: events are kept for ever.\n");
    const pruned = await command.run(["admin", "prune"], { env: { RETENTION_DAYS: "30" } });
    expect(pruned.json).toEqual([{ events: 1_001, messages: 0, sessions: 0, tickets: 0, throttles: 0 }]);
    expect((await app.call("/user/session", { token: boss.token })).status).toBe(200);
  });

  test("what cannot be done is told in one line: 2 for wrong usage, 1 for the rest", async ({ expect }) => {
    const wrong = [[], ["dance"], ["grant"], ["events", "--status", "7"]];
    const refused = [
      ["user", "nobody-here"],
      ["reset", "nobody-here", PASSWORD],
      ["events", "--user", crypto.randomUUID()],
    ];
    const codes = async (list: string[][]) => Promise.all(list.map((words) => admin(...words)));
    for (const { code, out, err } of await codes(wrong)) expect([code, out, err === ""]).toEqual([2, "", false]);
    for (const { code, out, err } of await codes(refused)) {
      expect([code, out]).toEqual([1, ""]);
      expect(err).toMatch(/^There is no user "[^"]+"\.\n$/);
    }
    const elsewhere = await command.run(["admin", "list"], { env: { DB_ADDRESS: "file:/nowhere/at/all.db" } });
    expect(elsewhere).toMatchObject({ code: 1, err: expect.stringMatching(/^DB_ADDRESS [^\n]+\n$/) });
  });

  test("a reader that goes away and an input that is closed are no errors", async ({ expect }) => {
    const [early, closed] = await Promise.all([
      command.shell('{ "$@"; echo $? >&2; } | true', ["admin", "list"]),
      command.shell('"$@" <&-', ["admin", "usage", "--since", "2026-01-01"]),
    ]);
    expect(early.err).toBe("0\n");
    expect([closed.code, closed.err]).toEqual([0, ""]);
  });
});

const logged = async (person: Person, model: string) => (await search(app.deps.store, { user: person.id, model, limit: 1 }))[0];
const isFor = (model: string) => async (request: Recorded) => {
  await request.complete;
  return request.body.includes(model);
};
