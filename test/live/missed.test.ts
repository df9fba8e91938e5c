import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startUpstashBridge, type UpstashBridge } from "../bridge/upstash.ts";
import { answerEach, type Chat, chatOf, person, type Viewer } from "../chat/support.ts";
import { type App, startApp } from "../support/app.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { until } from "../support/relay.ts";
import { startUpstream, type Upstream } from "../support/upstream.ts";
import { startWire, type Wire } from "../support/wire.ts";

// Two instances, each with a line of its own to the bus: what one says while the other cannot hear it reaches those who watch
// at the other, though the log has forgotten it, or never had it.

const isSkipped = skippedWithoutRedis("what was missed on two instances");
/** A database of Redis that no other file uses, because it is emptied in the middle. */
const DATABASE = 9;
/** How often an instance asks the store about the chats that are watched there, in these tests. */
const ROUND_MS = 300;

type Instance = { app: App; line: Wire; bridge: UpstashBridge };

describe.skipIf(isSkipped)("two instances on one Upstash", { timeout: 40_000 }, () => {
  let upstream: Upstream;
  let admin: Redis;
  let making: Instance;
  let watching: Instance;
  const instances: Instance[] = [];

  beforeAll(async () => {
    upstream = await startUpstream();
    admin = new Redis(`${redisUrl}/${DATABASE}`);
  });
  beforeEach(async () => {
    await admin.flushdb();
    making = await start();
    watching = await start(`file:${making.app.file}`);
    answerEach(upstream, (prompt) => `reply to ${prompt}`);
  });
  afterEach(async () => {
    // The first of them has the store.
    for (const { app, bridge, line } of instances.splice(0).reverse()) {
      await app.close();
      await Promise.all([bridge.close(), line.close()]);
    }
    upstream.reset();
  });
  afterAll(async () => {
    await upstream.close();
    admin.disconnect();
  });

  async function start(address?: string, authorizeEveryMs = ROUND_MS): Promise<Instance> {
    const bridge = await startUpstashBridge(`${redisUrl}/${DATABASE}`);
    const line = await startWire(Number(new URL(bridge.url).port));
    const redis = { UPSTASH_REDIS_REST_URL: line.url(bridge.url), UPSTASH_REDIS_REST_TOKEN: bridge.token };
    const app = await startApp(
      { API_URL: upstream.url, ...redis, ...(address && { DB_ADDRESS: address }) },
      { authorizeEveryMs },
    );
    const instance = { app, line, bridge };
    instances.push(instance);
    return instance;
  }
  const away = ({ line }: Instance) => {
    line.refuse(true);
    line.cut();
  };
  const back = ({ line }: Instance) => line.refuse(false);
  /** A new chat, as each of the two sees it. */
  async function newChat(): Promise<{ here: Chat; there: Chat }> {
    const owner = await person(making.app.deps.store);
    const { json } = await making.app.call("/chat/create", { token: owner.token, body: {} });
    return { here: chatOf(making.app, json.id, owner), there: chatOf(watching.app, json.id, owner) };
  }
  const expectWhole = async (viewer: Viewer, ...prompts: string[]) => {
    for (const prompt of prompts) expect(await viewer.ended(prompt)).toMatchObject({ whole: `reply to ${prompt}` });
  };

  test("a log that was empty, and is again, may have had something meanwhile", async () => {
    const { here, there } = await newChat();
    const viewer = await there.watch();
    away(watching);
    await here.prompt({ prompt: "one", stream: true });
    await admin.flushdb();
    back(watching);
    await expectWhole(viewer, "one");
    viewer.leave();
  });

  test("what is heard while the log cannot be read does not hide what was missed before", async () => {
    // The rounds would find it later.
    watching = await start(`file:${making.app.file}`, 60_000);
    const { here, there } = await newChat();
    const viewer = await there.watch();
    away(watching);
    await here.prompt({ prompt: "one", stream: true });
    await admin.flushdb();
    watching.bridge.fail("status500");
    back(watching);
    await until(() => watching.bridge.streams === 1, 10_000);
    await here.prompt({ prompt: "two", stream: true });
    await expectWhole(viewer, "one", "two");
    viewer.leave();
  });

  test("what is heard while an older reading of the log is under way does not hide what was missed between", async () => {
    // The rounds would find it later.
    watching = await start(`file:${making.app.file}`, 60_000);
    const { here, there } = await newChat();
    const viewer = await there.watch();
    await here.prompt({ prompt: "zero", stream: true });
    await expectWhole(viewer, "zero");
    const { bridge } = watching;
    bridge.fail({ answerAfterMs: 900 });
    bridge.cut("end");
    const reads = () => bridge.commands.filter(([name]) => name === "XRANGE").length;
    const before = reads();
    await until(() => reads() > before);
    bridge.fail("refuse", 2, "subscription");
    bridge.cut("end");
    await here.prompt({ prompt: "one", stream: true });
    await until(() => bridge.streams === 1, 10_000);
    await here.prompt({ prompt: "two", stream: true });
    await expectWhole(viewer, "one", "two");
    viewer.leave();
  });

  test("what came from the store, the bus being down, is there for who was cut off meanwhile", async () => {
    const { here, there } = await newChat();
    const [staying, leaving] = [await there.watch(), await there.watch()];
    await here.prompt({ prompt: "one", stream: true });
    await Promise.all([expectWhole(staying, "one"), expectWhole(leaving, "one")]);
    leaving.leave();
    away(watching);
    await here.prompt({ prompt: "two", stream: true });
    await expectWhole(staying, "two");
    const again = await there.watch(undefined, `&after=${leaving.heard.at(-1)?.id}`);
    await expectWhole(again, "two");
    expect(again.named("reset")).toEqual([]);
    staying.leave();
    again.leave();
  });

  test("of what the log forgot long ago nothing is said to who comes, and waiting costs no command", async () => {
    const { here, there } = await newChat();
    await here.prompt({ prompt: "one", stream: true });
    await admin.flushdb();
    const viewer = await there.watch();
    const { commands } = watching.bridge;
    const before = commands.length;
    await sleep(6 * ROUND_MS);
    expect(commands.slice(before)).toEqual([]);
    expect(viewer.heard.map(({ event }) => event)).toEqual(["ping"]);
    await here.prompt({ prompt: "two", stream: true });
    await expectWhole(viewer, "two");
    viewer.leave();
  });

  test("what its maker could tell no bus of is told by the store, in the rounds", async () => {
    const { here, there } = await newChat();
    const viewer = await there.watch();
    away(making);
    await here.prompt({ prompt: "one", stream: true });
    await expectWhole(viewer, "one");
    expect(await admin.keys("*")).toEqual([]);
    back(making);
    viewer.leave();
  });
});
