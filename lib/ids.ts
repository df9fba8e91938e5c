import { randomFillSync } from "node:crypto";
import { V7Generator } from "uuidv7";

/** UUIDv7, with its random bits drawn in bulk: one id a request is on the path of all of them. */
export function createIds(): () => string {
  const pool = new Uint32Array(1_024);
  let next = pool.length;
  const nextUint32 = () => {
    if (next === pool.length) {
      randomFillSync(pool);
      next = 0;
    }
    return pool[next++] as number;
  };
  const generator = new V7Generator({ nextUint32 });
  return () => generator.generate().toString();
}
