/** How many rounds a trial has: `TRIALS`, or a number that is quick. */
export const trials = (few: number): number => Number(process.env.TRIALS || few);

/** The seed of this run's trials: `SEED`, or a new one. It stands in the name of each test that uses it. */
export const seed = Number(process.env.SEED || process.pid);

/** Numbers from 0 up to 1, the same for the same seed (mulberry32). */
export function random(from: number): () => number {
  let state = from >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
