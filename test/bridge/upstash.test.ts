import { Redis } from "@upstash/redis";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { startUpstashBridge, type UpstashBridge } from "./upstash.ts";

describe.skipIf(skippedWithoutRedis("Upstash bridge"))("the Upstash bridge", () => {
  let bridge: UpstashBridge;
  beforeAll(async () => {
    bridge = await startUpstashBridge(`${redisUrl}/13`);
  });
  afterAll(() => bridge?.close());
  beforeEach(() => {
    bridge.commands.length = 0;
  });

  const client = (config: object = {}) =>
    new Redis({ url: bridge.url, token: bridge.token, retry: { retries: 0 }, enableTelemetry: false, ...config });
  const newKey = () => `bridge:${crypto.randomUUID()}`;
  const bearer = () => ({ authorization: `Bearer ${bridge.token}` });
  const get = (path: string, init: RequestInit = {}) => fetch(`${bridge.url}${path}`, { headers: bearer(), ...init });

  test("values come back as they were set, in base64 and in plain text", async () => {
    const key = newKey();
    for (const responseEncoding of ["base64", false] as const) {
      const redis = client({ responseEncoding, enableAutoPipelining: false });
      expect(await redis.set(key, "Größe 🌍 \0 \u2028", { px: 60_000 })).toBe("OK");
      expect(await redis.get(key)).toBe("Größe 🌍 \0 \u2028");
      expect(await redis.get(newKey())).toBeNull();
      expect(await redis.strlen(key)).toBe(Buffer.byteLength("Größe 🌍 \0 \u2028"));
      expect(await redis.lpush(`${key}:list`, "b", "a")).toBeGreaterThanOrEqual(2);
      expect(await redis.lrange(`${key}:list`, 0, 1)).toEqual(["a", "b"]);
    }
    await client().del(key, `${key}:list`);
  });

  test("a pipeline answers each command, and each is billed", async () => {
    const key = newKey();
    const pipeline = client().pipeline().set(key, "1", { px: 60_000 }).lpush(key, "x").incr(key);
    const [set, pushed, incremented] = await pipeline.exec({ keepErrors: true });
    expect(set?.result).toBe("OK");
    expect(pushed?.error).toMatch(/^WRONGTYPE/);
    expect(incremented?.result).toBe(2);
    expect(bridge.commands.map(([name]) => name?.toLowerCase())).toEqual(["set", "lpush", "incr"]);
  });

  test("a transaction is one step", async () => {
    const key = newKey();
    const results = await client().multi().set(key, "1", { px: 60_000 }).incr(key).get(key).exec();
    expect(results).toEqual(["OK", 2, 2]);
    expect(bridge.commands).toHaveLength(3);
  });

  test("a script is one command, by its text and by its hash", async () => {
    const key = newKey();
    const script = client().createScript<unknown[]>(
      "redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000) return {KEYS[1], 7, false}",
    );
    expect(await script.eval([key], ["v"])).toEqual([key, 7, null]);
    expect(await script.exec([key], ["v"])).toEqual([key, 7, null]);
    expect(bridge.commands.map(([name]) => name?.toLowerCase())).toEqual(["eval", "evalsha"]);
    await expect(client().evalsha("0".repeat(40), [key], [])).rejects.toThrow("NOSCRIPT");
  });

  test("a subscription acknowledges, and brings what is published", async () => {
    const channel = newKey();
    const subscriber = client().subscribe<string>(channel);
    onTestFinished(() => subscriber.unsubscribe());
    const heard: unknown[] = [];
    await new Promise<void>((resolve) => subscriber.on("subscribe", () => resolve()));
    expect(bridge.commands).toEqual([["subscribe", channel]]);
    subscriber.on("message", (data) => heard.push(data));
    expect(await client().publish(channel, "hello, Größe 🌍")).toBe(1);
    expect(await client().publish(channel, '{"a":[1]}')).toBe(1);
    await vi.waitUntil(() => heard.length === 2);
    expect(heard).toEqual([
      { channel, message: "hello, Größe 🌍" },
      { channel, message: { a: [1] } },
    ]);
  });

  test("a subscription to a pattern names the channel", async () => {
    const prefix = newKey();
    const subscriber = client().psubscribe<string>(`${prefix}:*`);
    onTestFinished(() => subscriber.unsubscribe());
    await new Promise<void>((resolve) => subscriber.on("psubscribe", () => resolve()));
    const heard = new Promise((resolve) => subscriber.on("pmessage", resolve));
    await client().publish(`${prefix}:a`, '"x"');
    expect(await heard).toEqual({ pattern: `${prefix}:*`, channel: `${prefix}:a`, message: "x" });
  });

  test("the raw stream is server-sent events, however it is cut into pieces", async () => {
    const channel = newKey();
    bridge.pieceBytes = 1;
    onTestFinished(() => {
      bridge.pieceBytes = Number.POSITIVE_INFINITY;
    });
    const leaving = new AbortController();
    const { body, headers } = await get(`/subscribe/${channel}`, { signal: leaving.signal });
    expect(headers.get("content-type")).toBe("text/event-stream");
    const chunks = (body as ReadableStream<Uint8Array>).getReader();
    const read = async (bytes: number) => {
      let text = Buffer.alloc(0);
      while (text.length < bytes) text = Buffer.concat([text, (await chunks.read()).value as Uint8Array]);
      return text.toString();
    };
    expect(await read(`data: subscribe,${channel},1\n\n`.length)).toBe(`data: subscribe,${channel},1\n\n`);
    await client().publish(channel, "é\nlost");
    expect(await read(Buffer.byteLength(`data: message,${channel},é\nlost\n\n`))).toBe(`data: message,${channel},é\nlost\n\n`);
    leaving.abort();
    await vi.waitUntil(() => bridge.streams === 0);
  });

  test("commands may stand in the path, with options in the query and a value in the body", async () => {
    const key = newKey();
    expect(await (await get(`/set/${key}/a%2Fb?PX=60000`)).json()).toEqual({ result: "OK" });
    expect(await (await fetch(`${bridge.url}/get/${key}?_token=${bridge.token}`)).json()).toEqual({ result: "a/b" });
    expect(await (await get(`/append/${key}`, { method: "POST", body: "+é" })).json()).toEqual({ result: 6 });
    expect(await (await get(`/get/${key}`, { headers: { ...bearer(), "upstash-encoding": "base64" } })).json()).toEqual({
      result: Buffer.from("a/b+é").toString("base64"),
    });
    expect(await client().pttl(key)).toBeGreaterThan(0);
  });

  test("a wrong or missing token is refused", async () => {
    expect((await get("/ping", { headers: { authorization: "Bearer other" } })).status).toBe(401);
    const missing = await get("/ping", { headers: {} });
    expect([missing.status, await missing.json()]).toEqual([401, { error: expect.stringContaining("auth token") }]);
    await expect(client({ token: "other" }).get("x")).rejects.toThrow("WRONGPASS");
    expect(bridge.commands).toEqual([]);
  });

  test("what cannot be run is an error of 400, and no other method is served", async () => {
    const post = (body: string, path = "/") => get(path, { method: "POST", body });
    for (const body of ["{", "[]", '"PING"', '["SUBSCRIBE","x"]', '["BLPOP","x",0]', '["MULTI"]', '["SELECT",1]']) {
      const answer = await post(body);
      expect([body, answer.status, await answer.json()]).toEqual([body, 400, { error: expect.stringMatching(/^ERR /) }]);
    }
    expect((await post("{}", "/pipeline")).status).toBe(400);
    expect(bridge.commands).toEqual([]);
    const failed = await post('["INCRBY","x","many"]');
    expect([failed.status, await failed.json()]).toEqual([400, { error: expect.stringContaining("not an integer") }]);
    expect((await get("/ping", { method: "DELETE" })).status).toBe(405);
  });

  test("faults: an answer lost after the command ran, and requests that were never run", async () => {
    const key = newKey();
    bridge.fail("dropAnswer");
    await expect(client().incr(key)).rejects.toThrow("fetch failed");
    expect(await client().get(key)).toBe(1);
    bridge.fail("refuse");
    bridge.fail("status500");
    bridge.fail("garbage");
    await expect(client().incr(key)).rejects.toThrow("fetch failed");
    await expect(client().incr(key)).rejects.toThrow("told to fail");
    await expect(client().incr(key)).rejects.toThrow("Unable to parse");
    expect(await client().get(key)).toBe(1);
    await client().del(key);
  });

  test("a delayed request outlasts the caller's signal", async () => {
    bridge.fail({ delayMs: 60_000 });
    await expect(client({ signal: () => AbortSignal.timeout(50) }).get("x")).rejects.toThrow("timeout");
    expect(bridge.commands).toEqual([]);
  });

  test("streams can be ended, reset and silenced, and refused apart from commands", async () => {
    const channel = newKey();
    const open = async () => {
      const { body } = await get(`/subscribe/${channel}`);
      const chunks = (body as ReadableStream<Uint8Array>).getReader();
      await chunks.read();
      return chunks;
    };
    const ended = await open();
    bridge.cut("end");
    expect(await ended.read()).toEqual({ done: true, value: undefined });
    const reset = await open();
    bridge.cut("reset");
    await expect(reset.read()).rejects.toThrow("terminated");
    const silenced = await open();
    bridge.silence();
    const heard = await open();
    await client().publish(channel, "x");
    expect(String(Buffer.from((await heard.read()).value as Uint8Array))).toBe(`data: message,${channel},x\n\n`);
    bridge.cut("end");
    expect(await silenced.read()).toEqual({ done: true, value: undefined });
    bridge.fail("status500", 1, "subscription");
    expect(await client().ping()).toBe("PONG");
    expect((await get(`/subscribe/${channel}`)).status).toBe(500);
  });

  test("closing ends streams and requests that still wait", async () => {
    const other = await startUpstashBridge(`${redisUrl}/13`);
    other.fail({ delayMs: 60_000 });
    const headers = { authorization: `Bearer ${other.token}` };
    const stream = await fetch(`${other.url}/subscribe/x`, { headers });
    const ended = expect(stream.text()).rejects.toThrow("terminated");
    const waiting = expect(fetch(`${other.url}/ping`, { headers })).rejects.toThrow("fetch failed");
    await other.close();
    await Promise.all([ended, waiting]);
  });
});
