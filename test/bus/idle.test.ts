import { describe, expect, onTestFinished, test, vi } from "vitest";
import { skippedWithoutRedis } from "../support/redis.ts";
import { keysOf, newChat, redisBackend, upstashBackend } from "./adapters.ts";
import { listenToCommands } from "./commands.ts";
import { Recorder, until } from "./reader.ts";

/** In a file of its own, because drivers keep the timers that they find when they are first used. */
describe.skipIf(skippedWithoutRedis("viewers who wait"))("a viewer who waits", () => {
  test.each([
    ["Upstash", () => upstashBackend(4)],
    ["Redis", () => redisBackend(3)],
  ])("on %s: a subscription is one command, an hour of waiting is none, and then there is a delivery", async (_, start) => {
    // Everything in this process that works with timers ages by an hour: the bus, its drivers and the bridge.
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval"] });
    onTestFinished(() => void vi.useRealTimers());
    const backend = await start();
    const heard = await listenToCommands(backend);
    const [reading, writing, chat] = [await backend.open(), await backend.open(), newChat()];
    onTestFinished(async () => {
      heard.close();
      await Promise.all([reading.close(), writing.close()]);
      await backend.close();
    });
    const listener = new Recorder();
    await reading.subscribe(chat, listener);
    const { channel } = keysOf(chat);
    expect((await heard.all()).filter((command) => command.includes(channel))).toEqual([["subscribe", channel]]);
    heard.clear();
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(await heard.all()).toEqual([]);
    vi.useRealTimers();
    await writing.append(chat, "still there");
    await until(() => listener.entries.length === 1);
    expect(listener.missedTimes).toBe(0);
  });
});
