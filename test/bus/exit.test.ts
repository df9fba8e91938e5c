import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { build } from "esbuild";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { BusAddress } from "../../lib/bus/bus.ts";
import { startUpstashBridge } from "../bridge/upstash.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";

/** A program that uses a bus in every way, and has nothing left to do when it says so. */
const PROGRAM = `
import { openBus } from "./lib/bus/open.ts";
const { address, close } = JSON.parse(process.argv[1]);
const bus = await openBus(address);
const author = { generation: crypto.randomUUID(), producer: "p", n: 1, opens: true };
const heard = new Promise((resolve) => {
  globalThis.listener = { entry: resolve, missed() {} };
});
await bus.subscribe("chat", globalThis.listener);
await bus.subscribe("another chat", globalThis.listener);
await bus.append("chat", "text", author);
await bus.take("chat", author.generation);
console.log((await heard).text);
if (close) await bus.close();
`;

describe("a process that has used a bus", () => {
  let program = "";
  beforeAll(async () => {
    const stdin = { contents: PROGRAM, resolveDir: process.cwd() };
    const common = { bundle: true, packages: "external", platform: "node", format: "esm", write: false } as const;
    program = (await build({ stdin, ...common })).outputFiles[0]?.text ?? "";
  });

  /** Runs to its own end: what it said, and how it ended. */
  const run = async (options: { address: BusAddress; close: boolean }) => {
    const child = spawn(process.execPath, ["--input-type=module", "-e", program, JSON.stringify(options)]);
    onTestFinished(() => void child.kill("SIGKILL"));
    const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
    return { out, err, code };
  };
  const wellEnded = { out: "text\n", err: "", code: 0 };

  test("in memory, ends when there is nothing else to do", async () => {
    expect(await run({ address: { kind: "memory" }, close: false })).toEqual(wellEnded);
  });

  describe.skipIf(skippedWithoutRedis("processes that use a bus"))("on a server", () => {
    test("on Redis, ends once the bus is closed", async () => {
      expect(await run({ address: { kind: "redis", url: `${redisUrl}/12` }, close: true })).toEqual(wellEnded);
    });

    test("on Upstash, ends once the bus is closed", async () => {
      const bridge = await startUpstashBridge(`${redisUrl}/12`);
      onTestFinished(() => bridge.close());
      const address: BusAddress = { kind: "upstash", url: bridge.url, token: bridge.token };
      expect(await run({ address, close: true })).toEqual(wellEnded);
    });
  });
});
