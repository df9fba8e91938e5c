/** Many viewers of one stream, and what each of them was sent: which frames, how often, and in which order. */
import { setTimeout as sleep } from "node:timers/promises";
import { median } from "../harness/statistics.mjs";
import { isPing, openViewer, parseFrame } from "./viewer.mjs";

const AT_ONCE = 50;
const QUIET_MS = 400;
const GIVE_UP_MS = 15_000;
/** When the upstream wrote a piece of the reply, as it says itself. */
const WRITTEN = / t(\d+)/g;

/** @typedef {{ atMs: number, text: string }} Said  a frame, and when the first of the viewers had it */

export class Crowd {
  /** @type {Map<string, number>} */
  #numbers = new Map();
  /** When the first and the last had it, by the frame's number. @type {{ text: string, firstNs: bigint, lastNs: bigint }[]} */
  #frames = [];
  /** The numbers that each viewer was sent. @type {number[][]} */
  #heard = [];
  /** @type {Awaited<ReturnType<typeof openViewer>>[]} */
  #viewers = [];
  #deliveries = 0;
  #beganNs = 0n;
  #heardMs = 0;

  /** @param {{ port: number, path: string, headers?: Record<string, string> }} stream @param {number} size */
  async open(stream, size) {
    while (this.#viewers.length < size) {
      const first = this.#viewers.length;
      const opening = Array.from({ length: Math.min(AT_ONCE, size - first) }, (_, place) => {
        this.#heard[first + place] = [];
        return openViewer(stream, (frame, nowNs) => this.#hear(first + place, frame, nowNs));
      });
      this.#viewers.push(...(await Promise.all(opening)));
    }
  }

  get size() {
    return this.#viewers.length;
  }

  /** How many were sent away, or lost their connection. */
  get gone() {
    return this.#viewers.filter(({ socket }) => socket.destroyed).length;
  }

  /** Forgets what was said before. */
  begin() {
    this.#numbers = new Map();
    this.#frames = [];
    this.#heard = this.#heard.map(() => []);
    this.#deliveries = 0;
    this.#beganNs = process.hrtime.bigint();
  }

  /** Resolves when nothing has come for a moment. */
  async quiet() {
    const deadline = performance.now() + GIVE_UP_MS;
    this.#heardMs = performance.now();
    while (performance.now() - this.#heardMs < QUIET_MS && performance.now() < deadline) await sleep(20);
  }

  /** @returns {Said[]} in the order of the stream */
  get said() {
    const frames = this.#frames.map(({ text, firstNs }) => ({ text, atMs: Number(firstNs - this.#beganNs) / 1e6 }));
    return frames.sort((a, b) => a.atMs - b.atMs);
  }

  get deliveries() {
    return this.#deliveries;
  }

  /**
   * Every viewer against what was to be said, or against what any viewer has heard where that is not known.
   * @param {string[]} expected
   */
  faults(expected = this.#frames.map(({ text }) => text)) {
    const numbers = new Set(expected.map((text) => this.#numbers.get(text) ?? -1));
    const order = [...numbers].filter((number) => number >= 0);
    const neverHeard = new Set(expected).size - order.length;
    let [lost, doubled, disordered] = [neverHeard * this.size, 0, 0];
    const place = new Map(order.map((number, at) => [number, at]));
    for (const heard of this.#heard) {
      const distinct = new Set(heard);
      doubled += heard.length - distinct.size + [...distinct].filter((number) => !place.has(number)).length;
      lost += order.filter((number) => !distinct.has(number)).length;
      const places = heard.map((number) => place.get(number) ?? -1);
      disordered += places.filter((at, i) => i > 0 && at < (places[i - 1] ?? -1)).length;
    }
    return { lost, doubled, disordered };
  }

  /** From the upstream's writing a piece to the last viewer's having it, the median of all pieces. */
  lastViewerMs() {
    const delays = this.#frames.flatMap(({ text, lastNs }) =>
      parseFrame(text).data.partial ? [...text.matchAll(WRITTEN)].map(([, ns]) => Number(lastNs - BigInt(ns ?? 0)) / 1e6) : [],
    );
    return median(delays);
  }

  close() {
    for (const viewer of this.#viewers.splice(0)) viewer.close();
  }

  #hear(/** @type {number} */ viewer, /** @type {string} */ text, /** @type {bigint} */ nowNs) {
    if (isPing(text)) return;
    let number = this.#numbers.get(text);
    if (number === undefined) {
      number = this.#frames.length;
      this.#numbers.set(text, number);
      this.#frames.push({ text, firstNs: nowNs, lastNs: nowNs });
    }
    const frame = this.#frames[number];
    if (frame) frame.lastNs = nowNs;
    this.#heard[viewer]?.push(number);
    this.#deliveries++;
    this.#heardMs = performance.now();
  }
}
