import { hash } from "node:crypto";
import { ApiError } from "../http/error.ts";
import * as throttles from "../repo/throttles.ts";
import type { Store } from "../store/store.ts";

const MINUTE_MS = 60_000;
const FAILURE_WINDOW_MS = 15 * MINUTE_MS;
const FIRST_DELAY_MS = 15_000;

/** A number of tries per key and window. The key is kept as given, so it must hold nothing secret. */
export type Limit = { key: string; most: number; windowMs: number };

export const signinLimit = (address: string, most: number): Limit => ({ key: `signin:${address}`, most, windowMs: MINUTE_MS });
export const signupLimit = (address: string, most: number): Limit => ({
  key: `signup:${address}`,
  most,
  windowMs: 60 * MINUTE_MS,
});
/** Hashed, because what is typed into the wrong field may be a password. */
export const failureKey = (username: string) => `failures:${hash("sha256", username, "base64url")}`;

/** The statement that counts a try; `refuseOver` judges its answer. For use in `atomic`. */
export function countTry(q: Store["db"], store: Store, { key, windowMs }: Limit, now: Date) {
  return throttles.count(q, store, key, now, new Date(now.getTime() - windowMs));
}

/** Throws `rate_limited` when the try counted was one too many. */
export function refuseOver({ most, windowMs }: Limit, [counted]: readonly throttles.Throttle[], now: Date): void {
  if (!counted || counted.count <= most) return;
  throw limited(counted.since.getTime() + windowMs - now.getTime());
}

/** Throws `rate_limited` while the key is blocked. */
export function refuseBlocked([found]: readonly throttles.Throttle[], now: Date): void {
  const waitMs = (found?.blockedUntil.getTime() ?? 0) - now.getTime();
  if (waitMs > 0) throw limited(waitMs);
}

/** Counts a wrong password. From the `most`th in 15 minutes on each blocks the next try, twice as long, up to 15 minutes. */
export async function countFailure(store: Store, username: string, most: number, now: Date): Promise<void> {
  const key = failureKey(username);
  const [counted] = await throttles.count(store.db, store, key, now, new Date(now.getTime() - FAILURE_WINDOW_MS));
  const beyond = (counted?.count ?? 0) - most;
  if (beyond < 0) return;
  const delayMs = Math.min(FAILURE_WINDOW_MS, FIRST_DELAY_MS * 2 ** Math.min(beyond, 10));
  await throttles.block(store, key, new Date(now.getTime() + delayMs));
}

const limited = (waitMs: number) => new ApiError("rate_limited", { retryAfterSeconds: waitMs / 1000 });
