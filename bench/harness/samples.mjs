/** What was measured: a number per peer, metric and round. */
export class Samples {
  /** @type {Map<string, Map<string, number[]>>} */
  #byPeer = new Map();

  add(/** @type {string} */ peer, /** @type {number} */ round, /** @type {Record<string, number>} */ values) {
    const metrics = this.#byPeer.get(peer) ?? new Map();
    this.#byPeer.set(peer, metrics);
    for (const [metric, value] of Object.entries(values)) {
      const rounds = metrics.get(metric) ?? [];
      metrics.set(metric, rounds);
      while (rounds.length < round) rounds.push(Number.NaN);
      rounds[round] = value;
    }
  }

  /** @returns {number[]} by round, empty when the peer took no part */
  get(/** @type {string} */ peer, /** @type {string} */ metric) {
    return this.#byPeer.get(peer)?.get(metric) ?? [];
  }

  /** @returns {{ peer: string, metric: string, values: number[] }[]} */
  all() {
    return [...this.#byPeer].flatMap(([peer, metrics]) => [...metrics].map(([metric, values]) => ({ peer, metric, values })));
  }
}
