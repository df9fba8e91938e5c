import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Chat, chatOf, modelFor, watchStream } from "../chat/support.ts";
import { type App, PASSWORD, type Person } from "../support/app.ts";
import { buildCommand, type Command } from "../support/command.ts";
import { freshDatabase, skippedWithoutPostgres } from "../support/postgres.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { type Server, serve } from "../support/server.ts";
import { startUpstream, type Upstream } from "../support/upstream.ts";
import { startWire, type Wire } from "../support/wire.ts";

// Two processes of the real command on one Postgres and one Redis: what is said to one is seen at the other.

const isSkipped = skippedWithoutPostgres("two processes") || skippedWithoutRedis("two processes");
/** A reply whose producer died is settled within this. */
const SETTLED_MS = 20_000;

describe.skipIf(isSkipped)("two processes on one Postgres and one Redis", () => {
  let command: Command;
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let upstream: Upstream;
  let redis: Wire;
  let one: Server;
  let two: Server;
  let owner: Person;
  let member: Person;
  let first: Chat;
  let second: Chat;
  const start = () => serve(command, {});

  beforeAll(async () => {
    [database, upstream, redis] = await Promise.all([
      freshDatabase(),
      startUpstream(),
      startWire(Number(new URL(redisUrl as string).port)),
    ]);
    command = await buildCommand({
      API_KEY: "sk-test",
      API_URL: upstream.url,
      DB_ADDRESS: database.url,
      REDIS_ADDRESS: redis.url(redisUrl as string),
      SIGNUP: "open",
    });
    [one, two] = await Promise.all([start(), start()]);
    owner = await signUp(one, "owner");
    member = await signUp(two, "member");
    const made = await post(two, "/chat/create", owner, { name: "across" });
    await post(one, "/chat/user/add", owner, { chat_id: made.json.id, username: "member" });
    [first, second] = [chatAt(one), chatAt(two)];
    function chatAt(server: Server): Chat {
      return chatOf(appAt(server), made.json.id, owner, [member]);
    }
  });
  afterAll(async () => {
    await Promise.all([one.stop("SIGTERM"), two.stop("SIGTERM")]);
    command.remove();
    await Promise.all([upstream.close(), redis.close()]);
    await database.drop();
  });

  test("a reply that is made by one is watched at the other, as it comes", async () => {
    const viewer = await watchStream(`${two.url}/chat/stream?id=${first.id}`, member.token);
    const model = modelFor(upstream, "across");
    const answered = first.prompt({ prompt: "across", stream: true });
    await model.asked;
    for (const word of ["Seen", " as", " it", " comes"]) await model.say(word);
    await viewer.partly("across", "comes");
    model.end();
    expect(await answered).toMatchObject({ status: 200, json: { reply: "Seen as it comes" } });
    expect(await viewer.ended("across")).toMatchObject({
      streamed: "Seen as it comes",
      whole: "Seen as it comes",
      begun: 1,
      ends: 1,
    });
    viewer.leave();
  });

  test("a member stops it at the other, and the upstream is aborted", async () => {
    const model = modelFor(upstream, "to be stopped");
    const answered = first.prompt({ prompt: "to be stopped", stream: true });
    const asked = await model.asked;
    await model.say("Half a ");
    const { status, json } = await second.call("/chat/stop", { id: second.id }, member);
    expect({ status, messages: json.messages }).toMatchObject({
      status: 200,
      messages: [{ state: "stopped", stopped_by: member.id, reply: "Half a " }],
    });
    expect(await asked.closed).toMatchObject({ aborted: true });
    expect(await answered).toMatchObject({ status: 200, json: { reply: "Half a ", message: { state: "stopped" } } });
  });

  test("the same prompt at both is one", async () => {
    const model = modelFor(upstream, "once");
    const message_id = crypto.randomUUID();
    const answers = [first, second, first, second].map((chat) => chat.prompt({ prompt: "once", message_id }));
    await model.asked;
    await model.say("One.");
    model.end();
    const replies = (await Promise.all(answers)).map(({ status, json }) => [status, json.message?.id, json.reply]);
    expect(replies).toEqual(Array(4).fill([200, message_id, "One."]));
    expect(upstream.requests.filter(({ body }) => body.includes('"once"'))).toHaveLength(1);
  });

  test("a producer that is killed: its reply is settled, what was said is kept, and those who watch are told", async () => {
    const doomed = await start();
    const viewer = await watchStream(`${two.url}/chat/stream?id=${first.id}`, member.token);
    const model = modelFor(upstream, "doomed");
    const cut = chatOf(appAt(doomed), first.id, owner)
      .prompt({ prompt: "doomed", stream: true })
      .catch(() => "cut");
    await model.asked;
    await model.say("Not the whole");
    await viewer.partly("doomed", "Not the whole");
    const killedAt = performance.now();
    await doomed.stop("SIGKILL");
    expect(await cut).toBe("cut");
    await viewer.until("it is settled", () => viewer.named("failed").length > 0);
    await viewer.ended("doomed");
    expect(performance.now() - killedAt).toBeLessThan(SETTLED_MS);
    expect(viewer.named("failed")).toMatchObject([{ error: { code: "interrupted" } }]);
    const last = (await second.read()).at(-1);
    expect(last).toMatchObject({ prompt: "doomed", state: "failed", error_code: "interrupted", reply: "Not the whole" });
    viewer.leave();
  }, 40_000);

  test("without Redis in mid-reply: the prompt is answered whole, and viewers at the other get the message from the store", async () => {
    const viewer = await watchStream(`${two.url}/chat/stream?id=${first.id}`, member.token);
    const model = modelFor(upstream, "no more Redis");
    const answered = first.prompt({ prompt: "no more Redis", stream: true });
    await model.asked;
    await model.say("Before");
    await viewer.partly("no more Redis", "Before");
    redis.refuse(true);
    redis.cut();
    await model.say(" and after.");
    model.end();
    expect(await answered).toMatchObject({ status: 200, json: { reply: "Before and after." } });
    expect(await viewer.ended("no more Redis")).toMatchObject({ whole: "Before and after.", ends: 1 });
    // Another one, all of which happens without it.
    const next = modelFor(upstream, "still none");
    const again = second.prompt({ prompt: "still none", stream: true });
    await next.asked;
    await next.say("From the store.");
    next.end();
    expect(await again).toMatchObject({ status: 200, json: { reply: "From the store." } });
    expect(await viewer.ended("still none")).toMatchObject({ whole: "From the store.", ends: 1 });
    const health = await appAt(one).call("/health");
    expect(health).toMatchObject({ status: 200, json: { status: "degraded", bus: { kind: "redis", up: false } } });

    redis.refuse(false);
    const last = modelFor(upstream, "back again");
    const back = first.prompt({ prompt: "back again", stream: true });
    await last.asked;
    await last.say("Here.");
    last.end();
    expect(await back).toMatchObject({ status: 200 });
    expect(await viewer.ended("back again")).toMatchObject({ whole: "Here.", ends: 1 });
    expect((await first.read()).slice(-3).map(({ prompt, reply, state }) => [prompt, reply, state])).toEqual([
      ["no more Redis", "Before and after.", "done"],
      ["still none", "From the store.", "done"],
      ["back again", "Here.", "done"],
    ]);
    viewer.leave();
  });

  test("who is removed at one is sent away at the other", async () => {
    const viewer = await watchStream(`${two.url}/chat/stream?id=${first.id}`, member.token);
    await first.call("/chat/user/remove", { chat_id: first.id, user_id: member.id });
    await viewer.over;
    expect((await second.call("/chat/read", { id: first.id }, member)).status).toBe(404);
  }, 40_000);
});

const appAt = ({ url }: Server): Pick<App, "url" | "call" | "deps"> => ({
  url,
  deps: undefined as never,
  call: async (path, { token, body, headers = {} } = {}) => {
    const response = await fetch(url + path, {
      method: body === undefined ? "GET" : "POST",
      headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }), ...headers },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, json: JSON.parse(text) };
  },
});

const post = (server: Server, path: string, { token }: Person, body: Record<string, unknown>) =>
  appAt(server).call(path, { token, body });

async function signUp(server: Server, username: string): Promise<Person> {
  const { json } = await appAt(server).call("/user/signup", { body: { username, password: PASSWORD } });
  return { id: json.user.id, username, token: json.token };
}
