import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { answerEach, type Chat, chatOf, modelFor, person, sent, type Viewer, watchStream } from "../chat/support.ts";
import { fetchStreaming } from "../chat-clients/clients.ts";
import { ownChat } from "../chosen/own.ts";
import { expectRefusal } from "../support/answers.ts";
import { type App, startApp } from "../support/app.ts";
import { freshDatabase, skippedWithoutPostgres } from "../support/postgres.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { until } from "../support/relay.ts";
import { random, seed, trials } from "../support/seed.ts";
import { startUpstream, type Upstream } from "../support/upstream.ts";
import { startWire, type Wire } from "../support/wire.ts";

// Two instances on one Postgres and one Redis, each with a line of its own to the latter: what is cleared on one is gone for all.

const isSkipped = skippedWithoutPostgres("clearing on two instances") || skippedWithoutRedis("clearing on two instances");
/** A database of Redis that no other file uses. */
const DATABASE = 2;
/** How often an instance asks the store about the chats that are watched there, in these tests. */
const ROUND_MS = 300;
/** How long a clear may take whose bus does not answer. */
const ANSWERED_MS = 2_000;

const sinceReset = ({ heard }: Viewer) => JSON.stringify(heard.slice(heard.findLastIndex(({ event }) => event === "reset") + 1));
const reset = (viewer: Viewer) => viewer.until("a reset", () => viewer.named("reset").length > 0);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe.skipIf(isSkipped)("two instances on one Postgres and one Redis", { timeout: 40_000 }, () => {
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let upstream: Upstream;
  let admin: Redis;
  const lines: Wire[] = [];
  const apps: App[] = [];

  beforeAll(async () => {
    [database, upstream] = await Promise.all([freshDatabase(), startUpstream()]);
    admin = new Redis(`${redisUrl}/${DATABASE}`);
  });
  beforeEach(() => admin.flushdb());
  afterEach(async () => {
    await Promise.all(apps.splice(0).map((app) => app.close()));
    await Promise.all(lines.splice(0).map((line) => line.close()));
    upstream.reset();
  });
  afterAll(async () => {
    await upstream.close();
    await database.drop();
    admin.disconnect();
  });

  /** One more instance, and its line to Redis. */
  async function start(authorizeEveryMs = 60_000): Promise<{ app: App; line: Wire }> {
    const line = await startWire(Number(new URL(redisUrl as string).port));
    const env = { API_URL: upstream.url, DB_ADDRESS: database.url, REDIS_ADDRESS: line.url(`${redisUrl}/${DATABASE}`) };
    const app = await startApp(env, { authorizeEveryMs });
    lines.push(line);
    apps.push(app);
    return { app, line };
  }
  /** Two of them, and a chat of an owner and a member as each of the two sees it. */
  async function two(authorizeEveryMs?: number) {
    const [one, other] = [await start(authorizeEveryMs), await start(authorizeEveryMs)];
    const first = await ownChat(one.app, "demo");
    const member = await person(one.app.deps.store);
    await first.call("/chat/user/add", { chat_id: first.id, user_ids: [member.id] });
    const at = ({ app }: { app: App }) => chatOf(app, first.id, first.owner, [member]);
    return { one, other, first: at(one), second: at(other), member, at };
  }
  const echo = () => answerEach(upstream, (prompt) => `reply to ${prompt}`);
  const silence = (line: Wire) => {
    line.drop(true);
  };
  const away = (line: Wire) => {
    line.refuse(true);
    line.cut();
  };
  const back = async ({ app, line }: { app: App; line: Wire }) => {
    line.drop(false);
    line.refuse(false);
    line.cut();
    await until(
      () =>
        app.deps.bus.ping().then(
          () => true,
          () => false,
        ),
      15_000,
    );
  };
  async function clear(chat: Chat): Promise<void> {
    const startedMs = performance.now();
    expect(await chat.call(`/${chat.id}/clear`, {})).toMatchObject({ status: 200, json: {} });
    expect(performance.now() - startedMs).toBeLessThan(ANSWERED_MS);
  }
  /** All that Redis holds, in one text. */
  async function inRedis(): Promise<string> {
    const texts = (await admin.keys("*")).map(async (key) =>
      (await admin.type(key)) === "stream" ? [key, await admin.xrange(key, "-", "+")] : [key, await admin.get(key)],
    );
    return JSON.stringify(await Promise.all(texts));
  }

  test("cleared on one: who watches on the other begins anew, and a reply that is made there is stopped and gone", async () => {
    const { first, second, member } = await two();
    const viewers = [await first.watch(), await second.watch(member)];
    echo();
    await first.prompt({ prompt: "secret one", stream: true });
    const it = modelFor(upstream, "secret two");
    const lost = second.prompt({ prompt: "secret two", stream: true }, member);
    await it.say("secret half");
    for (const viewer of viewers) await viewer.partly("secret two", "secret half");
    expect(await inRedis()).toContain("secret half");
    const ids = viewers[1]?.heard.flatMap(({ id }) => id ?? []) ?? [];

    await clear(first);
    for (const viewer of viewers) await reset(viewer);
    expect((await (await it.asked).closed).aborted).toBe(true);
    expectRefusal(await lost, 404, "not_found");
    expect(await inRedis()).not.toContain("secret");
    expect(await second.rows()).toEqual([]);
    const resumed = await Promise.all([ids[0], ids.at(-1)].map((id) => second.watch(member, `&after=${id}`)));
    for (const viewer of resumed) await reset(viewer);
    const fresh = await second.watch(member);
    echo();
    await second.prompt({ prompt: "later", stream: true });
    for (const viewer of [...viewers, ...resumed, fresh]) {
      expect(await viewer.ended("later")).toMatchObject({ begun: 1, streamed: "reply to later", whole: "reply to later" });
      expect(sinceReset(viewer)).not.toContain("secret");
      viewer.leave();
    }
    expect(fresh.messages.size).toBe(1);
    expect(await first.read()).toMatchObject([{ seq: 3, prompt: "later" }]);
    expect(await inRedis()).not.toContain("secret");
  });

  test("a reply that ended just before a clear, and tells of it just after, is neither heard nor left in the log", async () => {
    const { other, first, second, member } = await two();
    const viewer = await first.watch();
    const it = modelFor(upstream, "secret");
    const answer = second.prompt({ prompt: "secret", stream: true }, member);
    await it.say("secret half");
    await viewer.partly("secret", "secret half");
    other.line.delay(400);
    await it.say(" and the secret rest");
    it.end();
    await until(async () => (await first.rows()).some(({ state }) => state === "done"));
    await clear(first);
    await reset(viewer);
    expect((await answer).status).toBe(200);
    other.line.delay(0);
    // They go the same way, and the second comes behind all that was under way.
    for (const prompt of ["later", "last"]) {
      await second.prompt({ prompt, otr: true }, member);
      await viewer.ended(prompt);
    }
    expect(sinceReset(viewer)).not.toContain("secret");
    expect(await inRedis()).not.toContain("secret");
    viewer.leave();
  });

  test("who resumes where the log has forgotten the clear, having heard all that was said since, hears only what is new", async () => {
    const { first, member } = await two();
    const viewer = await first.watch(member);
    echo();
    await first.prompt({ prompt: "secret", stream: true });
    await clear(first);
    await first.prompt({ prompt: "later", stream: true });
    await viewer.ended("later");
    viewer.leave();
    for (const key of await admin.keys("*")) {
      if ((await admin.type(key)) !== "stream") continue;
      const [[id, [, told]] = ["", []]] = await admin.xrange(key, "-", "+", "COUNT", 1);
      expect(JSON.parse(String(told))).toMatchObject({ t: "cleared" });
      await admin.xdel(key, id);
    }
    const third = chatOf((await start()).app, first.id, first.owner, [member]);
    const resumed = await third.watch(member, `&after=${viewer.heard.at(-1)?.id}`);
    await third.prompt({ prompt: "new", otr: true }, member);
    await resumed.ended("new");
    expect([...resumed.messages.values()].map(({ prompt }) => prompt)).toEqual(["new"]);
    expect(resumed.named("reset")).toEqual([]);
    resumed.leave();
  });

  test("a viewer whose line was cut at the clear is told to begin anew, and hears nothing of before from then on", async () => {
    const { other, first, second, member } = await two();
    const viewer = await second.watch(member);
    const it = modelFor(upstream, "secret");
    const lost = first.prompt({ prompt: "secret", stream: true });
    await it.say("secret half");
    await viewer.partly("secret", "secret half");
    away(other.line);
    await clear(first);
    expectRefusal(await lost, 404, "not_found");
    const heard = viewer.heard.length;
    echo();
    await first.prompt("later");
    await back(other);
    await viewer.ended("later");
    expect(viewer.named("reset").length).toBeGreaterThan(0);
    expect(JSON.stringify(viewer.heard.slice(heard))).not.toContain("secret");
    viewer.leave();
  });

  describe.each([
    ["refuses", away],
    ["is silent", silence],
  ])("cleared on one whose bus %s", (_, trouble) => {
    /** Cleared behind the back of the other, and of Redis, which has all of it still. */
    async function unheard() {
      const pair = await two(ROUND_MS);
      const { one, first, second, member } = pair;
      const viewers = [await first.watch(), await second.watch(member)];
      echo();
      await first.prompt({ prompt: "secret one", stream: true });
      for (const viewer of viewers) await viewer.ended("secret one");
      const ids = viewers[1]?.heard.flatMap(({ id }) => id ?? []) ?? [];
      trouble(one.line);
      await clear(first);
      const third = await start();
      const everywhere = [first, second, chatOf(third.app, first.id, first.owner, [member])];
      return { ...pair, viewers, everywhere, ids: [ids[0], ids.at(-1)] as string[] };
    }

    test("the other tells those who watch there in its next round", async () => {
      const { one, viewers, second } = await unheard();
      const startedMs = performance.now();
      for (const viewer of viewers) await reset(viewer);
      expect(performance.now() - startedMs).toBeLessThan(ROUND_MS + 1_000);
      await back(one);
      await second.prompt({ prompt: "later", stream: true });
      for (const viewer of viewers) {
        expect(await viewer.ended("later")).toMatchObject({ whole: "reply to later" });
        expect(sinceReset(viewer)).not.toContain("secret");
        viewer.leave();
      }
    });

    test("who was cut off before anything was said here is told so, too, when they come again", async () => {
      const { one, other, first, second, member } = await two(ROUND_MS);
      echo();
      await first.prompt({ prompt: "secret one", stream: true });
      await admin.flushdb();
      const [staying, leaving] = [await second.watch(), await second.watch(member)];
      await leaving.until("a place", ({ heard }) => heard.length > 0);
      leaving.leave();
      trouble(one.line);
      await clear(first);
      await reset(staying);
      const again = await chatOf(other.app, first.id, first.owner, [member]).watch(member, `&after=${leaving.heard[0]?.id}`);
      await reset(again);
      expect(JSON.stringify(again.heard)).not.toContain("secret");
      for (const viewer of [staying, again]) viewer.leave();
    });

    test("nobody who comes gets the old text, from any instance, though the log has it still", async () => {
      const { one, everywhere, ids, second, member } = await unheard();
      const fresh = await Promise.all(everywhere.map((chat) => chat.watch(member)));
      const resumed = await Promise.all(everywhere.flatMap((chat) => ids.map((id) => chat.watch(member, `&after=${id}`))));
      expect(await inRedis()).toContain("secret one");
      await back(one);
      await second.prompt({ prompt: "later", stream: true });
      for (const viewer of [...fresh, ...resumed]) {
        expect(await viewer.ended("later")).toMatchObject({ whole: "reply to later" });
        expect(JSON.stringify(viewer.heard)).not.toContain("secret");
        viewer.leave();
      }
    });

    test("who resumes with an id of before is told to begin anew, by any instance", async () => {
      const { everywhere, ids, member } = await unheard();
      for (const [n, chat] of everywhere.entries()) {
        for (const id of ids) {
          const viewer = await chat.watch(member, `&after=${id}`);
          // What is off the record needs no model, and is heard behind all that there was to be said.
          const prompt = `later on ${n} from ${id}`;
          await chat.prompt({ prompt, otr: true }, member);
          await viewer.ended(prompt);
          expect([n, id, viewer.named("reset").length > 0]).toEqual([n, id, true]);
          viewer.leave();
        }
      }
    });
  });

  describe("cleared while the bus is down for all", () => {
    /** They come while their instances know of the clear by the store alone, and then the bus is back. */
    async function comeMeanwhile(isMadeAgain = false) {
      const { one, other, first, second, member } = await two();
      echo();
      if (isMadeAgain) {
        await first.call("/chat/delete", { id: first.id });
        await first.call("/demo/system", { content: "" });
        await first.call("/chat/user/add", { chat_id: first.id, user_ids: [member.id] });
      }
      const before = await second.watch(member);
      await first.prompt({ prompt: "secret one", stream: true });
      await before.ended("secret one");
      const last = before.heard.at(-1)?.id;
      before.leave();
      away(one.line);
      away(other.line);
      await clear(first);
      const third = await start();
      away(third.line);
      const everywhere = [first, second, chatOf(third.app, first.id, first.owner, [member])];
      const fresh = await Promise.all(everywhere.map((chat) => chat.watch(member)));
      const resumed = await Promise.all(everywhere.map((chat) => chat.watch(member, `&after=${last}`)));
      await Promise.all([back(one), back(other), back(third)]);
      await first.prompt({ prompt: "later", stream: true });
      for (const viewer of [...fresh, ...resumed]) expect(await viewer.ended("later")).toMatchObject({ whole: "reply to later" });
      return { fresh, resumed };
    }

    test.each([
      ["a chat", false],
      ["a chat that was made again by its key", true],
    ])("nothing that was said before in %s is heard when it is back, on any instance", async (_, isMadeAgain) => {
      const { fresh, resumed } = await comeMeanwhile(isMadeAgain);
      for (const viewer of [...fresh, ...resumed]) {
        expect(JSON.stringify(viewer.heard)).not.toContain("secret");
        viewer.leave();
      }
    });

    test("who resumes with an id of before is told to begin anew", async () => {
      const { fresh, resumed } = await comeMeanwhile();
      expect(resumed.map((viewer) => viewer.named("reset").length > 0)).toEqual([true, true, true]);
      for (const viewer of [...fresh, ...resumed]) viewer.leave();
    });
  });

  test("a reply that is made on the other while no bus can tell is stopped by what the store says, and heard no more", async () => {
    const { one, other, first, second, member } = await two(ROUND_MS);
    const viewer = await second.watch(member);
    const it = modelFor(upstream, "secret");
    const lost = second.prompt({ prompt: "secret", stream: true }, member);
    await it.say("secret half");
    await viewer.partly("secret", "secret half");
    away(one.line);
    away(other.line);
    await clear(first);
    await reset(viewer);
    void it.say(" secret rest").catch(() => {});
    expect((await (await it.asked).closed).aborted).toBe(true);
    expectRefusal(await lost, 404, "not_found");
    await Promise.all([back(one), back(other)]);
    echo();
    await first.prompt("later");
    await viewer.ended("later");
    expect(sinceReset(viewer)).not.toContain("secret");
    expect((await first.rows()).map(({ prompt }) => prompt)).toEqual(["later"]);
    viewer.leave();
  });

  test("a reply that was cleared does not end another one that has its message_id", async () => {
    const { one, other, first, second, member } = await two();
    const message_id = randomUUID();
    const old = modelFor(upstream, "secret");
    const lost = second.prompt({ prompt: "secret", message_id, stream: true }, member);
    await old.say("secret half");
    away(one.line);
    away(other.line);
    await clear(first);
    const it = modelFor(upstream, "later");
    const answer = first.prompt({ prompt: "later", message_id }, member);
    await it.asked;
    await old.say(" secret rest").catch(() => {});
    old.end();
    expect((await lost).text).not.toContain("secret");
    await it.say("All of it.");
    it.end();
    expect(await answer).toMatchObject({ status: 200, json: { reply: "All of it." } });
    expect(await first.read()).toMatchObject([{ id: message_id, prompt: "later", reply: "All of it.", state: "done" }]);
  });

  test(`prompts on both at the moment of a clear are whole or gone, for all who watch (seed ${seed})`, async () => {
    const chance = random(seed);
    const told = { stayed: 0, went: 0 };
    const { first, second, member } = await two();
    for (let round = 0; round < trials(6); round++) {
      echo();
      const viewers = [await first.watch(), await second.watch(member)];
      const prompts = Array.from({ length: 10 }, (_, n) => `prompt ${n} of ${round}.`);
      const answers = prompts.map(async (prompt, n) => {
        await pause(chance() * 60);
        return (n % 2 === 0 ? first : second).prompt({ prompt, stream: n % 3 === 0 }, member);
      });
      await pause(chance() * 90);
      await clear(first);
      const answeredMs = performance.now();
      await Promise.all(answers);
      const rows = await first.rows();
      const stayed = rows.map(({ prompt }) => prompt);
      const went = prompts.filter((prompt) => !stayed.includes(prompt));
      told.stayed += stayed.length;
      told.went += went.length;
      for (const { prompt, state, reply } of rows) expect([state, reply]).toEqual(["done", `reply to ${prompt}`]);
      for (const [n, prompt] of prompts.entries()) {
        const { status, json } = (await answers[n]) ?? {};
        if (stayed.includes(prompt)) expect([status, json.reply]).toEqual([200, `reply to ${prompt}`]);
        else expect([200, 404]).toContain(status);
      }
      for (const recorded of upstream.requests) {
        const { messages } = await sent(recorded);
        const asked = messages.at(-1)?.content ?? "";
        if (went.includes(asked) && recorded.startedAt <= answeredMs) continue;
        const known = messages.map(({ content }) => content).join("\n");
        expect({ asked, knows: went.filter((prompt) => prompt !== asked && known.includes(prompt)) }).toEqual({
          asked,
          knows: [],
        });
      }
      const last = `last of ${round}.`;
      await second.prompt(last, member);
      for (const viewer of viewers) {
        for (const prompt of [...stayed, last]) expect(await viewer.ended(prompt)).toMatchObject({ whole: `reply to ${prompt}` });
        for (const prompt of went) expect(sinceReset(viewer)).not.toContain(prompt);
        viewer.leave();
      }
      upstream.reset();
    }
    // Else nothing was tried.
    expect(told.stayed * told.went).toBeGreaterThan(0);
  });

  test("a chat that is deleted on one and made again by its key is empty and heard whole on the other", async () => {
    const { first, second, member } = await two();
    echo();
    const viewers = [await second.watch(), await second.watch(member)];
    for (const prompt of ["secret one", "secret two"]) await first.prompt({ prompt, stream: true });
    for (const viewer of viewers) await viewer.ended("secret two");
    const ids = viewers[0]?.heard.flatMap(({ id }) => id ?? []) ?? [];
    expect((await first.call("/chat/delete", { id: first.id })).status).toBe(200);
    expect(await viewers[1]?.over).toBe("ended");
    await first.call("/demo/system", { content: "" });
    expect(await inRedis()).not.toContain("secret");
    const resumed = await Promise.all([ids[0], ids.at(-1)].map((id) => second.watch(second.owner, `&after=${id}`)));
    const it = modelFor(upstream, "anew");
    const answer = first.call("/demo/chat", { content: "anew", stream: true });
    await it.say("All of it.");
    it.end();
    expect((await answer).status).toBe(200);
    expect((await sent(await it.asked)).messages).toEqual([{ role: "user", content: "anew" }]);
    for (const viewer of resumed) {
      expect(await viewer.ended("anew")).toMatchObject({ begun: 1, streamed: "All of it.", whole: "All of it.", ends: 1 });
      expect(viewer.messages.size).toBe(1);
      viewer.leave();
    }
    viewers[0]?.leave();
    expect(await second.read()).toMatchObject([{ seq: 1, prompt: "anew" }]);
  });

  test("a chat that is deleted while the bus is down, and made again later, shows nothing of the old one to who comes with its ids", async () => {
    const { one, other, first, second } = await two();
    echo();
    const before = await second.watch();
    for (const prompt of ["secret one", "secret two"]) await first.prompt({ prompt, stream: true });
    await before.ended("secret two");
    const ids = before.heard.flatMap(({ id }) => id ?? []);
    before.leave();
    away(one.line);
    away(other.line);
    expect((await first.call("/chat/delete", { id: first.id })).status).toBe(200);
    await Promise.all([back(one), back(other)]);
    expect(await inRedis()).toContain("secret one");
    await first.call("/demo/system", { content: "" });
    const third = await start();
    const resumed = await Promise.all(
      [one, other, third].map(({ app: { url } }) =>
        fetchStreaming({ url, chatId: first.id, person: first.owner, after: String(ids[0]) }),
      ),
    );
    await first.call("/demo/chat", { content: "anew", stream: true });
    for (const { heard, leave } of resumed) {
      expect(await heard.ended("anew")).toMatchObject({ whole: "reply to anew", ends: 1 });
      expect(JSON.stringify(heard.frames)).not.toContain("secret");
      leave();
    }
  });

  test("chats are gone with their group: who makes a reply, who watches and Redis have nothing of them", async () => {
    const { one, other, at, member } = await two();
    const owner = (await ownChat(one.app, "another")).owner;
    const post = async (path: string, body: Record<string, unknown>) => {
      const { status, json } = await one.app.call(path, { token: owner.token, body });
      expect(status).toBe(200);
      return json;
    };
    const { id: group_id } = await post("/group/create", { name: "A group" });
    await post("/group/members/add", { group_id, user_ids: [member.id] });
    const { id } = await post("/chat/create", { group_id });
    const seen = (it: typeof one) => chatOf(it.app, id, owner, [member]);
    echo();
    await seen(one).prompt({ prompt: "secret before", stream: true });
    const model = modelFor(upstream, "secret now");
    const answer = seen(other).prompt({ prompt: "secret now", stream: true });
    await model.asked;
    await model.say("secret words");
    const viewers = [await seen(one).watch(member), await seen(other).watch(member)];
    for (const viewer of viewers) await viewer.partly("secret now", "secret words");
    expect(await inRedis()).toContain("secret before");

    await post("/group/delete", { id: group_id });
    for (const viewer of viewers) expect(await viewer.over).toBe("ended");
    expect((await (await model.asked).closed).aborted).toBe(true);
    expect((await answer).json.message?.state ?? (await answer).status).toSatisfy((told) => told === "stopped" || told === 404);
    expect(await inRedis()).not.toContain("secret");
    expect((await at(other).call("/chat/read", { id })).status).toBe(404);
  });

  test(`a chat that is made again has nothing of prompts at the moment when the old one was deleted (seed ${seed})`, async () => {
    const chance = random(seed + 1);
    const { one, first, second } = await two();
    for (let round = 0; round < trials(8); round++) {
      const prompts = Array.from({ length: 6 }, (_, n) => `secret ${n} of ${round}.`);
      const models = prompts.map((prompt) => modelFor(upstream, prompt));
      let over = 0;
      const answers = prompts.map(async (prompt, n) => {
        await pause(chance() * 30);
        const answer = await (n % 2 === 0 ? first : second).prompt({ prompt, stream: true });
        over++;
        return answer;
      });
      for (const it of models) void it.say("secret words").catch(() => {});
      await pause(chance() * 40);
      expect((await first.call("/chat/delete", { id: first.id })).status).toBe(200);
      // Each of them is refused, or was asked, before there is a chat again.
      await Promise.all(answers.map((answer, n) => Promise.race([answer, models[n]?.asked])));
      expect((await first.call("/demo/system", { content: "" })).status).toBe(200);
      const viewer = await watchStream(`${one.app.url}/chat/stream?id=${first.id}`, first.owner.token);
      // Nobody is there to hear them, so they come to an end, and not just when their models do.
      await until(() => over === prompts.length, 10_000);
      for (const { status, json } of await Promise.all(answers))
        expect(status === 200 ? json.message.state : status).toSatisfy((told) => told === 404 || told === "stopped");
      echo();
      await first.call("/demo/chat", { content: `anew ${round}` });
      await viewer.ended(`anew ${round}`);
      expect(JSON.stringify(viewer.heard)).not.toContain("secret");
      expect(await inRedis()).not.toContain(`of ${round}.`);
      expect((await first.rows()).map(({ seq, prompt }) => [seq, prompt])).toEqual([[1, `anew ${round}`]]);
      viewer.leave();
      upstream.reset();
    }
  });
});
