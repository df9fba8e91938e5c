import { describe } from "vitest";
import { skippedWithoutRedis } from "../support/redis.ts";
import { memoryBackend, redisBackend, upstashBackend } from "./adapters.ts";
import { busSuite } from "./suite.ts";

busSuite("in memory", memoryBackend);
describe.skipIf(skippedWithoutRedis("bus on Redis and Upstash"))("on a server", () => {
  busSuite("Redis", () => redisBackend(8));
  busSuite("Upstash", () => upstashBackend(9));
});
