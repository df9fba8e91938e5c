import { availableParallelism } from "node:os";
import { ApiError } from "../http/error.ts";

/** OWASP's parameters for argon2id: 19 MiB, two passes, one lane. */
const PARAMETERS = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };
/** The hash of a password that nobody knows; an unknown user's sign-in is checked against it, so that it takes as long. */
const NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$cHJveHktZ3B0IG5vYm9keQ$0kg6vUYuxGsvtBzO1Pq0IyCyzGHXdNwnDMN1CCR7J2A";
const QUEUE = 32;

/** Hashes and checks passwords, at most one a core at a time; with 32 waiting the next is refused (`busy`). */
export type Passwords = {
  hash(password: string): Promise<string>;
  /** `hash` null: there is no such user; the answer is false, after the same time. */
  verify(hash: string | null, password: string): Promise<boolean>;
};

export function createPasswords(cores = availableParallelism()): Passwords {
  const waiting: (() => void)[] = [];
  let running = 0;

  const inTurn = async <T>(work: () => Promise<T>): Promise<T> => {
    if (running < cores) running++;
    else if (waiting.length >= QUEUE) throw new ApiError("busy");
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      // A turn is handed over, so that nobody who comes in between takes it as well.
      const next = waiting.shift();
      if (next) next();
      else running--;
    }
  };
  return {
    hash: (password) =>
      inTurn(async () => {
        const argon2 = await import("argon2");
        return argon2.hash(password, { type: argon2.argon2id, ...PARAMETERS });
      }),
    verify: (hash, password) =>
      inTurn(async () => {
        const argon2 = await import("argon2");
        return (await argon2.verify(hash ?? NOBODY, password)) && hash !== null;
      }),
  };
}
