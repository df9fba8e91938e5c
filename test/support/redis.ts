import { skippedWithout } from "./postgres.ts";

/** A server whose keys tests may write, such as `redis://127.0.0.1:6379`. */
export const redisUrl: string | undefined = process.env.TEST_REDIS_URL || undefined;

/** For `describe.skipIf(skippedWithoutRedis("Redis bus"))`. */
export function skippedWithoutRedis(what: string): boolean {
  return skippedWithout("TEST_REDIS_URL", what);
}
