import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eq } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { functions } from "../../functions/all.ts";
import { readConfig } from "../../lib/config.ts";
import { createDeps } from "../../lib/deps.ts";
import { attach } from "../../lib/http/attach.ts";
import { createListener } from "../../lib/http/listen.ts";
import { search } from "../../lib/repo/events.ts";
import type { Message } from "../../lib/repo/messages.ts";
import { openSqlite } from "../../lib/store/sqlite.ts";
import type { Store } from "../../lib/store/store.ts";
import { KEY, type Person } from "../support/app.ts";
import { buildCommand, type Command } from "../support/command.ts";
import { answersIn, everything, open, request, write } from "../support/raw.ts";
import { until } from "../support/relay.ts";
import { type Server, serve } from "../support/server.ts";
import { startUpstream, type Upstream } from "../support/upstream.ts";
import { modelFor, person, promptStream, sent, watchStream } from "./support.ts";

let upstream: Upstream;
let folder: string;
let command: Command;
let files = 0;
const started = new Set<Server>();

beforeAll(async () => {
  upstream = await startUpstream();
  folder = await mkdtemp(join(tmpdir(), "proxy-gpt-lifecycle-"));
  command = await buildCommand({ API_KEY: KEY, API_URL: upstream.url });
});
afterAll(async () => {
  await Promise.all([...started].map((server) => server.stop("SIGKILL")));
  command?.remove();
  await upstream?.close();
  await rm(folder, { recursive: true });
});

// They wait for seconds, and not for each other: each has prompts of its own.
const waiting = test.concurrent;

const newFile = () => join(folder, `${++files}.db`);

/** The file, as somebody else opens it: the admin command, or the next start. */
async function inStore<T>(file: string, work: (store: Store) => Promise<T>): Promise<T> {
  const store = openSqlite(file);
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}
const rowsIn = (file: string): Promise<Message[]> =>
  inStore(file, ({ db, messages }) => db.select().from(messages).orderBy(messages.seq));
const promptsIn = (file: string) => inStore(file, (store) => search(store, { endpoint: "chat.prompt", limit: 100 }));

/** What the upstream was asked. */
const asked = () => Promise.all(upstream.requests.map(async (it) => (await sent(it)).messages.at(-1)?.content));

// biome-ignore lint/suspicious/noExplicitAny: a test asserts what the JSON is.
type Told = { status: number; json: any; retryAfter: string | null };
async function ask(url: string, path: string, { token }: Person, body: object): Promise<Told> {
  const answer = await fetch(url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return { status: answer.status, json: await answer.json(), retryAfter: answer.headers.get("retry-after") };
}

describe.concurrent("an instance that is told to stop", () => {
  /** The product on a server of its own, which a test may drain, and somebody with a chat. */
  async function startInstance() {
    const file = newFile();
    const lines: Record<string, unknown>[] = [];
    const config = readConfig({ API_KEY: KEY, API_URL: upstream.url, DB_ADDRESS: `file:${file}` });
    const deps = await createDeps(config, { log: (line) => void lines.push(line) });
    await deps.store.migrate();
    const listener = createListener(functions, deps);
    const server = createServer();
    attach(server, listener);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const owner = await person(deps.store);
    const chatId: string = (await ask(url, "/chat/create", owner, {})).json.id;
    return {
      ...{ url, file, owner, chatId, lines },
      prompt: (prompt: string, fields: object = {}) =>
        ask(url, "/chat/prompt", owner, { id: chatId, prompt, stream: true, ...fields }),
      watch: () => watchStream(`${url}/chat/stream?id=${chatId}`, owner.token),
      drain: (deadlineMs?: number) => listener.drain(server, deadlineMs),
    };
  }

  waiting("refuses new work, tells those who watch to come again, and lets replies finish", async () => {
    const it = await startInstance();
    const viewer = await it.watch();
    const models = ["by JSON", "by events"].map((prompt) => modelFor(upstream, prompt));
    const answer = it.prompt("by JSON");
    const own = await promptStream(it.url, it.owner.token, { id: it.chatId, prompt: "by events" });
    for (const model of models) await model.say("Spain is");
    await Promise.all([viewer.partly("by JSON", "Spain is"), viewer.partly("by events", "Spain is")]);
    const client = await open(it.url);
    const said = everything(client);
    const head = ["Host: h", `Authorization: Bearer ${it.owner.token}`];
    await write(client, request(["GET /health HTTP/1.1", ...head]));
    await once(client, "data");
    const drained = it.drain();
    expect(await viewer.over).toBe("ended");
    expect(viewer.heard.at(-1)).toMatchObject({ event: "rotate" });
    await expect(it.prompt("too late")).rejects.toThrow();
    // A connection that was open may still bring more, unless it was closed for being idle.
    const body = JSON.stringify({ id: it.chatId, prompt: "too late" });
    const late = [...head, "Content-Type: application/json", `Content-Length: ${body.length}`];
    await write(client, request(["POST /chat/prompt HTTP/1.1", ...late], body));
    const [, refused] = answersIn(await said);
    if (refused) expect(refused).toMatchObject({ status: 503, json: { error: { code: "stopping" } } });
    for (const model of models) {
      await model.say(" a country.");
      model.end();
    }
    expect(await answer).toMatchObject({ status: 200, json: { reply: "Spain is a country.", message: { state: "done" } } });
    expect(await own.over).toBe("ended");
    expect(own.find("by events")).toMatchObject({ streamed: "Spain is a country.", whole: "Spain is a country." });
    await drained;
    expect((await rowsIn(it.file)).map(({ state, reply }) => [state, reply])).toEqual(
      Array(2).fill(["done", "Spain is a country."]),
    );
    expect((await promptsIn(it.file)).map(({ status }) => status)).toEqual([200, 200]);
    expect(await asked()).not.toContain("too late");
  });

  waiting(
    "keeps what came of a reply that does not finish in time, as failed, tells its prompters, and leaves no event open",
    async () => {
      const it = await startInstance();
      const viewer = await it.watch();
      const models = ["slow, by JSON", "slow, by events"].map((prompt) => modelFor(upstream, prompt));
      const messageId = randomUUID();
      const answers = [it.prompt("slow, by JSON", { message_id: messageId })];
      for (const model of models.slice(0, 1)) await model.say("Spain is");
      await viewer.partly("slow, by JSON", "Spain is");
      // A second one that waits for the same reply.
      answers.push(it.prompt("slow, by JSON", { message_id: messageId, stream: false }));
      const own = await promptStream(it.url, it.owner.token, { id: it.chatId, prompt: "slow, by events" });
      await models[1]?.asked;
      await until(async () => (await promptsIn(it.file)).length === 3);
      const startedMs = performance.now();
      await it.drain(3_000);
      expect(performance.now() - startedMs).toBeLessThan(3_000 + 1_500);
      for (const { status, json, retryAfter } of await Promise.all(answers))
        expect([status, json.error?.code, retryAfter]).toEqual([503, "stopping", "2"]);
      expect(await own.over).toBe("ended");
      expect(own.named("failed")).toMatchObject([{ error: { code: "stopping" } }]);
      for (const model of models) expect((await (await model.asked).closed).aborted).toBe(true);
      const rows = await rowsIn(it.file);
      expect(rows.map(({ state, errorCode, reply }) => [state, errorCode, reply])).toEqual([
        ["failed", "stopping", "Spain is"],
        ["failed", "stopping", ""],
      ]);
      const events = await promptsIn(it.file);
      expect(events.map(({ status, errorCode }) => [status, errorCode])).toEqual(Array(3).fill([503, "stopping"]));
      expect(it.lines.map(({ message }) => message)).not.toContain("stopped early");
    },
  );
});

/** Somebody with a chat on a server of its own process. */
async function startServer(file: string, env: Record<string, string> = {}) {
  const server = await serve(command, { DB_ADDRESS: `file:${file}`, ...env });
  started.add(server);
  return server;
}
async function newChat({ url }: Server, file: string): Promise<{ owner: Person; id: string }> {
  const owner = await inStore(file, (store) => person(store));
  return { owner, id: (await ask(url, "/chat/create", owner, {})).json.id };
}

waiting("SIGTERM: replies finish, those who watch are told to come again, and the process ends with 0", async () => {
  const file = newFile();
  const server = await startServer(file);
  const { owner, id } = await newChat(server, file);
  const viewer = await watchStream(`${server.url}/chat/stream?id=${id}`, owner.token);
  const model = modelFor(upstream, "tell me");
  const answer = ask(server.url, "/chat/prompt", owner, { id, prompt: "tell me", stream: true });
  await model.say("Spain is");
  await viewer.partly("tell me", "Spain is");
  const stopped = server.stop("SIGTERM");
  expect(await viewer.over).toBe("ended");
  expect(viewer.heard.at(-1)?.event).toBe("rotate");
  await model.say(" a country.");
  model.end();
  expect(await answer).toMatchObject({ status: 200, json: { reply: "Spain is a country." } });
  expect(await stopped).toBe(0);
  started.delete(server);
  expect(await rowsIn(file)).toMatchObject([{ state: "done", reply: "Spain is a country." }]);
  expect(await promptsIn(file)).toMatchObject([{ status: 200, errorCode: null }]);
});

waiting("SIGTERM with a reply that does not finish: it is kept as failed, and the process ends with 0 in time", async () => {
  const file = newFile();
  const server = await startServer(file);
  const { owner, id } = await newChat(server, file);
  const model = modelFor(upstream, "tell me all");
  const own = await promptStream(server.url, owner.token, { id, prompt: "tell me all" });
  await model.say("Spain is");
  await own.partly("tell me all", "Spain is");
  expect(await server.stop("SIGTERM")).toBe(0);
  started.delete(server);
  expect(await own.over).toBe("ended");
  expect(own.named("failed")).toMatchObject([{ error: { code: "stopping" } }]);
  expect(await rowsIn(file)).toMatchObject([{ state: "failed", errorCode: "stopping", reply: "Spain is" }]);
  expect(await promptsIn(file)).toMatchObject([{ status: 503, errorCode: "stopping" }]);
});

describe.concurrent("kill -9 in the middle of a reply", () => {
  waiting(
    "keeps the prompt and its event; after the next start it is settled, those who watch hear so, and the chat goes on",
    async () => {
      const file = newFile();
      const first = await startServer(file);
      const { owner, id } = await newChat(first, file);
      const messageId = randomUUID();
      const viewer = await watchStream(`${first.url}/chat/stream?id=${id}`, owner.token);
      const models = ["tell me more", "and me"].map((prompt) => modelFor(upstream, prompt));
      const said = { id, prompt: "tell me more", stream: true, message_id: messageId };
      const cut = [said, { id, prompt: "and me" }].map((body) => ask(first.url, "/chat/prompt", owner, body));
      for (const each of cut) each.catch(() => {});
      await models[0]?.say("Spain is");
      await viewer.partly("tell me more", "Spain is");
      await models[1]?.asked;
      await first.stop("SIGKILL");
      started.delete(first);
      for (const each of cut) await expect(each).rejects.toThrow();
      await viewer.over;

      const before = await rowsIn(file);
      expect(before.map(({ prompt, state }) => [prompt, state]).sort()).toEqual([
        ["and me", "streaming"],
        ["tell me more", "streaming"],
      ]);
      expect(await promptsIn(file)).toMatchObject([
        { endedAt: null, userId: owner.id },
        { endedAt: null, userId: owner.id },
      ]);
      // What lies between a kill and the next start is longer than a lease, as a rule.
      await inStore(file, async ({ db, messages }) => {
        for (const { id: of, createdAt } of before)
          await db
            .update(messages)
            .set({ createdAt: new Date(createdAt.getTime() - 60_000) })
            .where(eq(messages.id, of));
      });

      const second = await startServer(file);
      const again = await watchStream(`${second.url}/chat/stream?id=${id}`, owner.token, {
        "last-event-id": viewer.heard.at(-1)?.id ?? "",
      });
      const read = await ask(second.url, "/chat/read", owner, { id });
      expect(read.json.messages.map((it: Record<string, unknown>) => [it.state, it.error_code, it.stopped_by])).toEqual(
        Array(2).fill(["failed", "interrupted", null]),
      );
      await Promise.all([again.ended(messageId), again.ended("and me")]);
      expect(again.named("failed").map(({ error }) => error)).toEqual(Array(2).fill({ code: "interrupted" }));
      // The same prompt once more is told the same, and a new one is answered without it.
      const replay = await ask(second.url, "/chat/prompt", owner, said);
      expect([replay.status, replay.json.error.code]).toEqual([502, "interrupted"]);
      const model = modelFor(upstream, "and now?");
      const now = ask(second.url, "/chat/prompt", owner, { id, prompt: "and now?" });
      await model.say("Here I am.");
      model.end();
      const next = await now;
      expect(next.json.message).toMatchObject({ state: "done", seq: 3, reply: "Here I am." });
      expect((await sent(await model.asked)).messages).toHaveLength(1);
      expect((await asked()).filter((prompt) => prompt === "tell me more")).toHaveLength(1);
      expect(await again.ended("and now?")).toMatchObject({ whole: "Here I am." });
      again.leave();
      expect(await second.stop("SIGTERM")).toBe(0);
      started.delete(second);
      expect((await inStore(file, (store) => store.run([{ sql: "pragma integrity_check", params: [] }])))[0]).toEqual([["ok"]]);
    },
  );

  waiting("is settled for those who watch or ask again, soon after the lease has run out", async () => {
    const file = newFile();
    const first = await startServer(file);
    const { owner, id } = await newChat(first, file);
    const model = modelFor(upstream, "tell me last");
    const said = { id, prompt: "tell me last", message_id: randomUUID() };
    const cut = ask(first.url, "/chat/prompt", owner, said);
    cut.catch(() => {});
    await model.asked;
    await first.stop("SIGKILL");
    started.delete(first);
    await expect(cut).rejects.toThrow();
    const second = await startServer(file);
    // It is waited for in earnest: nobody has touched the clock.
    const viewer = await watchStream(`${second.url}/chat/stream?id=${id}`, owner.token);
    // As its prompter does, who asks again at once and waits for the same reply.
    const again = ask(second.url, "/chat/prompt", owner, said);
    expect(await viewer.ended("tell me last")).toMatchObject({ begun: 1, whole: "", ends: 1 });
    expect(viewer.named("failed")).toMatchObject([{ error: { code: "interrupted" } }]);
    viewer.leave();
    expect(await again).toMatchObject({ status: 502, json: { error: { code: "interrupted" } } });
    expect((await asked()).filter((prompt) => prompt === "tell me last")).toHaveLength(1);
    expect(await rowsIn(file)).toMatchObject([{ state: "failed", errorCode: "interrupted" }]);
  });
});
