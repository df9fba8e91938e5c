import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { startDemo } from "../lib/llm/demo.ts";
import { type App, type Person, startApp } from "./support/app.ts";
import { credentials, lineFor, shell, skippedWithoutCurl } from "./support/curl.ts";
import { until } from "./support/relay.ts";

// The `curl` lines of the document that this product implements, word for word, with its spelling of localhost. What stands
// there for an id or a session is replaced by a real one; a credential is added to those that are shown without.

const LINES = {
  createChat: String.raw`curl http://localhost:8080/chat/create \
-d "name=foobar&model=gpt-3"`,
  addUser: String.raw`curl http://locahost:8080/chat/user/add \
-d "chat_id=chat-1&user_id=user-1"`,
  prompt: String.raw`curl http://localhost:8080/chat/prompt \
-d "id=chat-1&prompt=tell+me+about+spain"`,
  stream: String.raw`curl http://localhost:8080/chat/stream \
-d 'id=chat-1'`,
  createGroup: String.raw`curl http://localhost:8080/group/create \
-d "name=foobar&description=my+awesome+group"`,
  addMembers: String.raw`curl http://localhost:8080/group/members/add \
-d "group_id=group-1&user_ids=user-1"`,
  createGroupChat: String.raw`curl http://localhost:8080/chat/create \
-d "name=foobar&group_id=group-1"`,
};
/** The passwords of the document are too short here. */
const USERS = {
  signup: String.raw`curl http://localhost:8080/user/signup \
-d "username=asim&password=bazbar-longer"`,
  login: String.raw`curl -vv http://localhost:8080/user/login \
-d "username=asim&password=bazbar-longer"`,
  signupJson: String.raw`curl http://localhost:8080/user/signup \
-H 'Content-Type: application/json' \
-d '{"username": "foo", "password": "bar-longer"}'`,
};

const noCurl = skippedWithoutCurl("the document's curl lines");

let demo: Awaited<ReturnType<typeof startDemo>>;
let app: App;
let asim: Person;
let foo: Person;
const running = new Set<ChildProcess>();

beforeAll(async () => {
  demo = await startDemo();
  app = await startApp({ API_URL: demo.url });
});
afterAll(async () => {
  for (const child of running) child.kill();
  await app.close();
  await demo.close();
});

/** A line as a shell runs it here. `more`: options in front of its own. */
function command(line: string, ids: Record<string, string> = {}, more = ""): string {
  let here = lineFor(line, app.url, more);
  for (const [name, id] of Object.entries(ids)) here = here.replaceAll(name, id);
  return here;
}
const ways = Object.entries(credentials);

/** What a line with a form says, in JSON: under its own type, and under a form's as curl sends it unasked. */
function encodingsOf(line: string): [how: string, line: string][] {
  const [, quote = "", form = ""] = /-d (["'])(.*)\1$/.exec(line) ?? [];
  const json = JSON.stringify(Object.fromEntries(new URLSearchParams(form)));
  const said = (data: string) => line.replace(`-d ${quote}${form}${quote}`, `-d '${data}'`);
  return [
    ["a form, as documented", line],
    ["JSON", said(json).replace("-d ", "-H 'Content-Type: application/json' -d ")],
    ["JSON under a form's type", said(json)],
  ];
}
const every = (line: string) =>
  ways.flatMap(([way, credential]) => encodingsOf(line).map(([how, written]) => [way, how, credential, written] as const));

describe.skipIf(noCurl)("the document's curl lines", () => {
  beforeAll(async () => {
    const signup = JSON.parse(await shell(command(USERS.signup)));
    expect(signup).toMatchObject({ user: { username: "asim" } });
    const { token } = JSON.parse(await shell(command(USERS.login).replace(" -vv", "")));
    asim = { ...signup.user, token };
    const other = JSON.parse(await shell(command(USERS.signupJson)));
    foo = { ...other.user, token: other.token };
  });

  const ids: Record<string, string> = {};
  beforeEach(async () => {
    const made = async (path: string, body: object) => (await app.call(path, { token: asim.token, body })).json.id as string;
    ids["user-1"] = foo.id;
    ids["chat-1"] = await made("/chat/create", { name: "foobar" });
    ids["group-1"] = await made("/group/create", { name: "foobar" });
  });
  const run = async (line: string, more: string) => JSON.parse(await shell(command(line, ids, more)));

  test.each(every(LINES.createChat))("make a chat, by %s and %s", async (_way, _how, credential, line) => {
    const chat = await run(line, credential(asim));
    expect(chat).toMatchObject({ id: expect.any(String), name: "foobar", model: "gpt-3", owner_id: asim.id, group_id: null });
  });

  test.each(every(LINES.addUser))("add a user to it, by %s and %s", async (_way, _how, credential, line) => {
    expect(await run(line, credential(asim))).toMatchObject({
      users: [
        { id: asim.id, role: "owner" },
        { id: foo.id, role: "member" },
      ],
    });
    const read = await app.call(`/chat/read?id=${ids["chat-1"]}`, { token: foo.token });
    expect(read).toMatchObject({ status: 200, json: { chat: { id: ids["chat-1"] } } });
  });

  test.each(every(LINES.prompt))("prompt it, by %s and %s", async (_way, _how, credential, line) => {
    const { reply, message } = await run(line, credential(asim));
    expect(reply).toContain("tell me about spain");
    expect(message).toMatchObject({ chat_id: ids["chat-1"], user_id: asim.id, prompt: "tell me about spain", reply });
    const { messages } = (await app.call(`/chat/read?id=${ids["chat-1"]}`, { token: asim.token })).json;
    expect(messages).toEqual([message]);
  });

  test.each(every(LINES.createGroup))("make a group, by %s and %s", async (_way, _how, credential, line) => {
    const group = await run(line, credential(asim));
    expect(group).toMatchObject({ id: expect.any(String), name: "foobar", description: "my awesome group", role: "owner" });
  });

  test.each(every(LINES.addMembers))("add members to it, by %s and %s", async (_way, _how, credential, line) => {
    expect(await run(line, credential(asim))).toMatchObject({
      users: [
        { id: asim.id, role: "owner" },
        { id: foo.id, role: "member" },
      ],
    });
    expect(await app.call(`/group/read?id=${ids["group-1"]}`, { token: foo.token })).toMatchObject({
      status: 200,
      json: { role: "member" },
    });
  });

  test.each(every(LINES.createGroupChat))("make a chat in it, by %s and %s", async (_way, _how, credential, line) => {
    const chat = await run(line, credential(asim));
    expect(chat).toMatchObject({ name: "foobar", group_id: ids["group-1"], owner_id: asim.id });
  });

  test("take the username and the token in the URL", async () => {
    for (const line of [LINES.createChat, LINES.prompt, LINES.createGroup]) {
      const said = command(line, ids).replace("http://", `http://${asim.username}:${asim.token}@`);
      expect(JSON.parse(await shell(said))).toBeTypeOf("object");
    }
  });

  test("without a credential are answered 401, and curl fails with what is wrong", async () => {
    const said = LINES.prompt;
    const failed = await shell(command(said, ids)).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: 22, stdout: expect.stringContaining('"unauthenticated"') });
  });

  /** `curl` in the background, once its answer has begun, and what it has said so far. */
  async function listen(line: string): Promise<{ said(): string; ended: Promise<number | null>; stop(): void }> {
    const child = spawn("sh", ["-c", `exec ${line.replace("curl ", "curl -v ")}`]);
    running.add(child);
    let [text, told] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (more: string) => {
      text += more;
    });
    // What it says of the head is not held back, unlike the rest.
    child.stderr.setEncoding("utf8").on("data", (more: string) => {
      told += more;
    });
    const ended = once(child, "close").then(([code]) => {
      running.delete(child);
      return code as number | null;
    });
    await until(() => told.includes("< HTTP/1.1 200"));
    return { said: () => text, ended, stop: () => void child.kill() };
  }
  type Said = { message: { id: string; prompt: string; reply: string }; partial: boolean };
  /** The frames that a simple client sees: those without a name, as documented. */
  const framesIn = (text: string): Said[] =>
    text
      .split("\n\n")
      .filter((part) => part.includes("data: ") && !part.includes("event: "))
      .map((part) => JSON.parse(part.slice(part.indexOf("data: ") + 6)));

  function expectWhole(frames: Said[], reply: string): void {
    expect(frames.length).toBeGreaterThan(2);
    const last = frames.at(-1) as Said;
    expect(last).toMatchObject({ message: { prompt: "tell me about spain", reply }, partial: false });
    const partial = frames.slice(0, -1);
    for (const frame of partial)
      expect(frame).toMatchObject({ message: { id: last.message.id, prompt: last.message.prompt }, partial: true });
    expect(partial.map(({ message }) => message.reply).join("")).toBe(reply);
    expect(partial.filter(({ message }) => message.reply !== "").length).toBeGreaterThan(1);
  }
  const promptStreamed = async (): Promise<string> => {
    const line = LINES.prompt.replace("spain", "spain&stream=true");
    return (await run(line, credentials["a bearer token"](asim))).reply;
  };

  test.each(every(LINES.stream))("stream from it, by %s and %s", async (_way, _how, credential, line) => {
    // Without -N curl keeps what it gets while it does not write to a terminal.
    const heard = await listen(command(line, ids, `-N ${credential(asim)}`));
    const reply = await promptStreamed();
    await until(() => heard.said().includes('"partial":false}\n\n'));
    heard.stop();
    await heard.ended;
    expectWhole(framesIn(heard.said()), reply);
  });

  test("stream from it just as documented, until it is deleted", async () => {
    const [, credential] = ways[0] as (typeof ways)[number];
    const heard = await listen(command(LINES.stream, ids, credential(asim)));
    const reply = await promptStreamed();
    await app.call("/chat/delete", { token: asim.token, body: { id: ids["chat-1"] } });
    expect(await heard.ended).toBe(0);
    expectWhole(framesIn(heard.said()), reply);
  });

  test("stream from it with the id and the token as parameters, by server-sent events and WebSocket", async () => {
    const query = `id=${ids["chat-1"]}&token=${asim.token}`;
    const heard = await listen(`curl -sS -N '${app.url}/chat/stream?${query}'`);
    const socket = new WebSocket(`${app.url.replace("http", "ws")}/chat/stream?${query}`);
    const messages: Said[] = [];
    socket.on("message", (data) => {
      const said = JSON.parse(String(data));
      if (said.event === undefined) messages.push(said);
    });
    await once(socket, "open");
    const reply = await promptStreamed();
    await until(() => messages.at(-1)?.partial === false && heard.said().includes('"partial":false}\n\n'));
    socket.terminate();
    heard.stop();
    await heard.ended;
    expectWhole(messages, reply);
    expectWhole(framesIn(heard.said()), reply);
  });
});
