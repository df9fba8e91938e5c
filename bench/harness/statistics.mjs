/** Linear interpolation between the two nearest ranks; NaN when there is nothing. */
export function quantile(/** @type {number[]} */ values, /** @type {number} */ share) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return Number.NaN;
  const position = (sorted.length - 1) * share;
  const below = sorted[Math.floor(position)] ?? Number.NaN;
  const above = sorted[Math.ceil(position)] ?? Number.NaN;
  return below + (above - below) * (position - Math.floor(position));
}

export const median = (/** @type {number[]} */ values) => quantile(values, 0.5);

/**
 * @typedef {{ median: number, min: number, max: number }} Spread
 * @param {number[]} values @returns {Spread}
 */
export function spread(values) {
  const finite = values.filter(Number.isFinite);
  if (finite.length === 0) return { median: Number.NaN, min: Number.NaN, max: Number.NaN };
  return { median: median(finite), min: Math.min(...finite), max: Math.max(...finite) };
}

/** Ratios taken round by round: what slows the machine down for a round slows both and cancels out. */
export function pairedRatios(/** @type {number[]} */ ours, /** @type {number[]} */ peers) {
  return ours.map((value, round) => value / (peers[round] ?? Number.NaN)).filter(Number.isFinite);
}

/** Differences taken round by round. */
export function pairedDifferences(/** @type {number[]} */ values, /** @type {number[]} */ base) {
  return values.map((value, round) => value - (base[round] ?? Number.NaN));
}

/** The same things, beginning with another one each round. @template T @param {T[]} things @param {number} round @returns {T[]} */
export function rotated(things, round) {
  const first = ((round % things.length) + things.length) % things.length;
  return [...things.slice(first), ...things.slice(0, first)];
}
