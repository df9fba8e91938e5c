import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { modelFor, replying, sent } from "../chat/support.ts";
import { comingAgain, fetchStreaming, type Watching, wsWith } from "../chat-clients/clients.ts";
import { asking, collect, textOf } from "../chat-clients/openai.ts";
import { PASSWORD, type Person } from "../support/app.ts";
import { buildCommand, type Command } from "../support/command.ts";
import { freshDatabase, skippedWithoutPostgres } from "../support/postgres.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { until } from "../support/relay.ts";
import { type Server, serve } from "../support/server.ts";
import { startUpstream, type Upstream } from "../support/upstream.ts";
import { seededBytes } from "../support/upstream-answers.ts";
import { type Nginx, skippedWithoutNginx, startNginx } from "./nginx.ts";

// The story of docs/operations.md: two processes on one Postgres and one Redis, behind nginx as it is configured there. nginx
// gives one request to the one and the next to the other, so that two in a row are never at the same.

const WHAT = "two servers behind nginx";
const isSkipped = skippedWithoutPostgres(WHAT) || skippedWithoutRedis(WHAT) || skippedWithoutNginx(WHAT);
const SIGNIN_PER_MINUTE = 5;

describe.skipIf(isSkipped)(WHAT, { timeout: 40_000 }, () => {
  let command: Command;
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let upstream: Upstream;
  let one: Server;
  let two: Server;
  let nginx: Nginx;
  let member: Person;
  let key: string;
  let chatId: string;

  beforeAll(async () => {
    [database, upstream] = await Promise.all([freshDatabase(), startUpstream()]);
    command = await buildCommand({
      API_KEY: "sk-test",
      API_URL: upstream.url,
      DB_ADDRESS: database.url,
      REDIS_ADDRESS: redisUrl as string,
      TRUST_HOPS: "1",
      SIGNUP: "open",
      SIGNIN_PER_MINUTE: String(SIGNIN_PER_MINUTE),
    });
    const migrated = await command.run(["migrate"]);
    if (migrated.code !== 0) throw new Error(`migrate ended with ${migrated.code}: ${migrated.err}`);
    [one, two] = await Promise.all([serve(command, {}), serve(command, {})]);
    nginx = await startNginx([one, two].map(({ url }) => new URL(url).host));
  });
  afterAll(async () => {
    await nginx.stop();
    await Promise.all([one.stop("SIGTERM"), two.stop("SIGTERM")]);
    command.remove();
    await upstream.close();
    await database.drop();
  });

  const call = async (path: string, body?: object, headers: Record<string, string> = { authorization: `Bearer ${key}` }) => {
    const response = await fetch(nginx.url + path, {
      method: body ? "POST" : "GET",
      headers: { "content-type": "application/json", ...headers },
      ...(body && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, json: text.startsWith("{") ? JSON.parse(text) : null };
  };
  const prompt = (text: string, more: object = {}) => call("/chat/prompt", { id: chatId, prompt: text, stream: true, ...more });
  const openai = () => new OpenAI({ baseURL: `${nginx.url}/v1`, apiKey: key, maxRetries: 0 });
  const place = (person: Person) => ({ url: nginx.url, chatId, person });
  /** How many requests of this endpoint each of the two has answered. */
  const answered = (endpoint: string) => [one, two].map(({ lines }) => lines.filter((it) => it.endpoint === endpoint).length);

  test("people sign up, sign in by cookie, and make a key and a chat, whichever server they reach", async () => {
    for (const username of ["owner", "member"]) {
      const { status, json } = await call("/user/signup", { username, password: PASSWORD }, {});
      expect(status).toBe(200);
      member = { id: json.user.id, username, token: json.token };
    }
    const login = await call("/user/login", { username: "owner", password: PASSWORD }, {});
    const [cookie = ""] = login.headers.getSetCookie();
    expect(cookie).toMatch(/^sess=pgs_[^;]+;.*Secure/);
    const signedIn = { cookie: cookie.split(";")[0] as string };
    const who = { status: 200, json: { user: { username: "owner" } } };
    for (let i = 0; i < 2; i++) expect(await call("/user/session", undefined, signedIn)).toMatchObject(who);
    await until(() => answered("user.session").join() === "1,1");
    const made = await call("/user/key/create", { label: "behind nginx" }, signedIn);
    key = made.json.token;
    chatId = (await call("/chat/create", { name: "behind nginx" })).json.id;
    expect(await call("/chat/user/add", { chat_id: chatId, username: "member" })).toMatchObject({ status: 200 });
  });

  test("the official client gets each piece of a streamed completion as soon as the model says it", async () => {
    const model = modelFor(upstream, "piece by piece");
    const asked = openai().chat.completions.create({ model: "gpt-4o-mini", messages: asking("piece by piece"), stream: true });
    await model.asked;
    const pieces = ["As", " it", " comes: 日本", " 🎉"];
    await model.say(pieces[0] as string);
    const heard: string[] = [];
    for await (const { choices } of await asked) {
      const content = choices[0]?.delta.content;
      if (!content) continue;
      heard.push(content);
      const next = pieces[heard.length];
      if (next) await model.say(next);
      else model.end();
    }
    expect(heard).toEqual(pieces);
  });

  test("bytes arrive as they were sent, in both directions, and an upload goes on before all of it is there", async () => {
    const answer = seededBytes("answer", 300_000);
    const upload = seededBytes("upload", 9 << 20);
    upstream.next(async (_, res, recorded) => {
      await recorded.complete;
      res.writeHead(200, { "content-type": "text/html", "x-long": "h".repeat(8_000) });
      res.end(answer);
    });
    const req = request(`${nginx.url}/v1/files/a%2Fb//c?q=%20+&q`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "accept-encoding": "gzip", x_odd_name: "kept", "x-long": "h".repeat(9_000) },
      agent: false,
    });
    req.write(upload.subarray(0, 70_000));
    const recorded = await upstream.waitFor(({ target }) => target.includes("a%2Fb"));
    await until(() => recorded.body.length === 70_000);
    req.end(upload.subarray(70_000));
    const [res] = (await once(req, "response")) as [IncomingMessage];
    expect(Buffer.concat(await res.toArray()).equals(answer)).toBe(true);
    expect(recorded.body.equals(upload)).toBe(true);
    expect(recorded).toMatchObject({ target: "/v1/files/a%2Fb//c?q=%20+&q", headers: { x_odd_name: "kept" } });
    expect(recorded.headers).not.toHaveProperty("x-forwarded-for");
    expect(res.headers).toMatchObject({ "content-type": "text/html", "x-long": "h".repeat(8_000) });
    expect(res.headers).not.toHaveProperty("content-encoding");
  });

  test("a reply is watched by server-sent events and by WebSocket, where it is made and at the other server", async () => {
    const viewers: Watching[] = [];
    for (const client of [fetchStreaming, fetchStreaming, wsWith("cookie"), wsWith("cookie")])
      viewers.push(await client(place(member)));
    const model = modelFor(upstream, "watched");
    const done = prompt("watched");
    await model.asked;
    let length = 0;
    for (const word of ["Seen", " everywhere", " at once"]) {
      await model.say(word);
      length += word.length;
      await Promise.all(viewers.map(({ heard }) => heard.partly("watched", length)));
    }
    model.end();
    expect(await done).toMatchObject({ status: 200, json: { reply: "Seen everywhere at once" } });
    const expected = { streamed: "Seen everywhere at once", whole: "Seen everywhere at once", begun: 1, ends: 1 };
    for (const { heard } of viewers) expect(await heard.ended("watched")).toMatchObject(expected);
    for (const { leave } of viewers) leave();
    await until(() => answered("chat.stream").join() === "2,2");
  });

  test("a member stops a reply at the other server than the one that makes it", async () => {
    const before = answered("chat.prompt");
    const model = modelFor(upstream, "to be stopped");
    const done = prompt("to be stopped");
    const asked = await model.asked;
    await model.say("Half a ");
    const stopped = await call("/chat/stop", { id: chatId }, { authorization: `Bearer ${member.token}` });
    expect(stopped.json.messages).toMatchObject([{ state: "stopped", stopped_by: member.id, reply: "Half a " }]);
    expect(await asked.closed).toMatchObject({ aborted: true });
    expect(await done).toMatchObject({ status: 200, json: { message: { state: "stopped" } } });
    await until(() => answered("chat.prompt").join() !== before.join() && answered("chat.stop").includes(1));
    const prompted = answered("chat.prompt").map((count, at) => count - (before[at] ?? 0));
    expect(prompted).toEqual(answered("chat.stop").map((count) => 1 - count));
  });

  test.each(["before the first byte", "in mid-stream"])("a client that hangs up %s aborts the upstream", async (when) => {
    const model = modelFor(upstream, when);
    const controller = new AbortController();
    const asked = openai()
      .chat.completions.create({ model: "gpt-4o-mini", messages: asking(when), stream: true }, { signal: controller.signal })
      .then(async (stream) => {
        for await (const _ of stream) controller.abort();
      })
      .catch(() => "aborted");
    const recorded = await model.asked;
    if (when === "in mid-stream") await model.say("Never mi");
    else controller.abort();
    expect(await recorded.closed).toMatchObject({ aborted: true });
    await asked;
  });

  test("a throttle counts a client's address: not nginx's, and not what the client says", async () => {
    let tries = 0;
    const trySignIn = async (localAddress: string, forwardedFor: string) => {
      const headers = { "content-type": "application/json", "x-forwarded-for": forwardedFor };
      const req = request(`${nginx.url}/user/login`, { method: "POST", localAddress, agent: false, headers });
      req.end(JSON.stringify({ username: `nobody${++tries}`, password: PASSWORD }));
      const [res] = (await once(req, "response")) as [IncomingMessage];
      res.resume();
      return res.statusCode;
    };
    const statuses = [];
    for (let i = 0; i <= SIGNIN_PER_MINUTE; i++) statuses.push(await trySignIn("127.0.0.2", `203.0.113.${i}`));
    expect(statuses).toEqual([...Array(SIGNIN_PER_MINUTE).fill(401), 429]);
    expect(await trySignIn("127.0.0.3", "127.0.0.2")).toBe(401);
  });

  test("one is told to stop in mid-reply: nothing is lost, everybody is still watching, and the other goes on", async () => {
    const viewers = [fetchStreaming, fetchStreaming, wsWith("bearer"), wsWith("bearer")].map((client) =>
      comingAgain(client, place(member)),
    );
    await Promise.all(viewers.map(({ heard }, at) => heard.until("a stream", () => (viewers[at]?.connections ?? 0) > 0)));
    // One reply is made at either server, and then one stream is relayed by either.
    const names = ["the first", "the second"];
    const models = [...names, "relayed", "relayed too"].map((name) => ({ name, ...modelFor(upstream, name) }));
    const replies: ReturnType<typeof prompt>[] = [];
    const texts: Promise<string>[] = [];
    for (const { name, asked, say } of models) {
      const ask = { model: "gpt-4o-mini", messages: asking(name), stream: true } as const;
      if (names.includes(name)) replies.push(prompt(name));
      else texts.push(openai().chat.completions.create(ask).then(collect).then(textOf));
      await asked;
      await say("Before");
    }
    await Promise.all(viewers.flatMap(({ heard }) => names.map((name) => heard.partly(name, "Before".length))));

    upstream.when(async (it) => JSON.stringify((await sent(it)).messages.at(-1)).includes("meanwhile"), replying("Here."));
    const busy = Array.from({ length: 8 }, async (_, at) => {
      const statuses = [];
      for (let i = 0; i < 4; i++)
        statuses.push((await call("/user/session")).status, (await prompt(`meanwhile ${at}.${i}`)).status);
      return statuses;
    });
    const stopped = one.stop("SIGTERM");
    expect((await Promise.all(busy)).flat()).toEqual(Array(64).fill(200));
    for (const model of models) {
      await model.say(", and after.");
      model.end();
    }
    const whole = "Before, and after.";
    for (const reply of replies) expect(await reply).toMatchObject({ status: 200, json: { reply: whole } });
    expect(await Promise.all(texts)).toEqual([whole, whole]);
    expect(await stopped).toBe(0);
    expect(await prompt("meanwhile, for the last time")).toMatchObject({ status: 200, json: { reply: "Here." } });
    for (const { heard } of viewers) {
      for (const name of names) expect(await heard.ended(name)).toMatchObject({ whole, ends: 1 });
      expect(await heard.ended("meanwhile, for the last time")).toMatchObject({ whole: "Here.", ends: 1 });
    }
    await Promise.all(viewers.map(({ leave }) => leave()));
  });
});
