import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startUpstashBridge, type UpstashBridge } from "../bridge/upstash.ts";
import { type Chat, chatOf, modelFor, person } from "../chat/support.ts";
import { type App, startApp } from "../support/app.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { until } from "../support/relay.ts";
import { random, seed, trials } from "../support/seed.ts";
import { startUpstream, type Upstream } from "../support/upstream.ts";
import { startWire, type Wire } from "../support/wire.ts";
import { Follower } from "./follower.ts";

// Replies under fire: connections of viewers, of the subscription and of the publisher are cut at random, and Redis goes away
// and forgets, while replies are made on one instance and watched on another. Nothing may be lost or doubled, for anybody.

const CUTS = 10;
/** How many chats are under the same fire, because what goes wrong needs an unlucky moment. */
const CHATS = 6;
/** A database of Redis that no other file uses, because it is emptied in the middle. */
const DATABASE = 7;
/** 34 rounds of 10 cuts on each of three adapters are 1,000 and more. */
const ROUNDS = Math.ceil(trials(3) / 3);

/** Two instances that share what there is to share, and the lines that can be cut. */
type Ground = {
  producer: App;
  watcher: App;
  upstream: Upstream;
  viewers: Wire;
  /** What can go wrong, each of them once. */
  faults: ((chance: () => number) => unknown)[];
  close(): Promise<void>;
};

async function ground(
  env: (name: "producer" | "watcher") => Record<string, string>,
  shared: boolean,
): Promise<Omit<Ground, "faults">> {
  const upstream = await startUpstream();
  const producer = await startApp({ API_URL: upstream.url, ...env("producer") });
  const same = { API_URL: upstream.url, DB_ADDRESS: `file:${producer.file}`, ...env("watcher") };
  const watcher = shared ? await startApp(same) : producer;
  const viewers = await startWire(Number(new URL(watcher.url).port));
  return {
    producer,
    watcher,
    upstream,
    viewers,
    close: async () => {
      if (shared) await watcher.close();
      await producer.close();
      await Promise.all([upstream.close(), viewers.close()]);
    },
  };
}

async function onMemory(): Promise<Ground> {
  const made = await ground(() => ({}), false);
  return { ...made, faults: [async () => made.viewers.cut()] };
}

async function onRedis(): Promise<Ground> {
  const admin = new Redis(`${redisUrl}/${DATABASE}`);
  const port = Number(new URL(redisUrl as string).port);
  const lines = { producer: await startWire(port), watcher: await startWire(port) };
  const made = await ground((name) => ({ REDIS_ADDRESS: lines[name].url(`${redisUrl}/${DATABASE}`) }), true);
  const away = async (chance: () => number) => {
    for (const line of Object.values(lines)) {
      line.refuse(true);
      line.cut();
    }
    await sleep(20 + chance() * 200);
    for (const line of Object.values(lines)) line.refuse(false);
  };
  return {
    ...made,
    faults: [
      () => made.viewers.cut(),
      () => lines.watcher.cut(),
      () => lines.producer.cut(),
      away,
      async () => void (await admin.flushdb()),
    ],
    close: async () => {
      await made.close();
      await Promise.all(Object.values(lines).map((line) => line.close()));
      admin.disconnect();
    },
  };
}

async function onUpstash(): Promise<Ground> {
  const admin = new Redis(`${redisUrl}/${DATABASE + 1}`);
  const bridge: UpstashBridge = await startUpstashBridge(`${redisUrl}/${DATABASE + 1}`);
  const port = Number(new URL(bridge.url).port);
  const lines = { producer: await startWire(port), watcher: await startWire(port) };
  const made = await ground(
    (name) => ({ UPSTASH_REDIS_REST_URL: lines[name].url(bridge.url), UPSTASH_REDIS_REST_TOKEN: bridge.token }),
    true,
  );
  return {
    ...made,
    faults: [
      () => made.viewers.cut(),
      () => lines.watcher.cut(),
      () => lines.producer.cut(),
      () => bridge.cut("end"),
      () => bridge.cut("reset"),
      (chance) => bridge.fail("dropAnswer", 1 + Math.floor(chance() * 3)),
      (chance) => bridge.fail("status500", 1 + Math.floor(chance() * 3)),
      async () => void (await admin.flushdb()),
    ],
    close: async () => {
      await made.close();
      await Promise.all([bridge.close(), ...Object.values(lines).map((line) => line.close())]);
      admin.disconnect();
    },
  };
}

const ALPHABET = ["a", "é", "日本", "🎉", " ", "\n", "data: ", '"', "</script>", "word ", "and another ", "👩‍👩‍👧"];

const ADAPTERS: [name: string, open: () => Promise<Ground>, isSkipped: boolean][] = [
  ["memory", onMemory, false],
  ["Redis", onRedis, skippedWithoutRedis("replies under fire over Redis")],
  ["Upstash", onUpstash, skippedWithoutRedis("replies under fire over Upstash")],
];

describe.each(ADAPTERS)("%s", (_name, open, isSkipped) => {
  describe.skipIf(isSkipped)("under fire", () => {
    let on: Ground;
    beforeAll(async () => {
      on = await open();
    });
    afterAll(() => on.close());

    test.each(Array.from({ length: ROUNDS }, (_, i) => [i + 1]))(
      `round %i, seed ${seed}: ${CUTS} cuts, and nothing is lost or doubled in ${CHATS} chats`,
      async (round: number): Promise<void> => {
        const chance = random(seed * 1_000 + round);
        const chats = await Promise.all(Array.from({ length: CHATS }, () => Watched.make(on, chance)));
        let over = false;
        const cutting = (async () => {
          for (let cut = 0; cut < CUTS; cut++) {
            await sleep(20 + chance() * 120);
            await on.faults[Math.floor(chance() * on.faults.length)]?.(chance);
          }
          over = true;
        })();
        // The fire goes on to the end of the replies, and beyond in every other round.
        const ending = round % 2 === 0 ? () => until(() => over) : async () => {};
        await Promise.all(chats.map((chat) => chat.ask(chance, ending)));
        await cutting;
        const missing = () => chats.flatMap((chat) => chat.missing());
        await until(() => missing().length === 0, 25_000).catch(() => {});
        await Promise.all(chats.map((chat) => chat.leave()));
        expect(missing()).toEqual([]);
        for (const chat of chats) await chat.expectWhole();
        on.upstream.reset();
      },
      60_000,
    );
  });
});

/** A chat in which two replies are made at once, and those who watch it. */
class Watched {
  static #made = 0;
  readonly #on: Ground;
  readonly #chat: Chat;
  readonly #replies: ReadonlyMap<string, string[]>;
  readonly #expected: ReadonlyMap<string, string>;
  readonly #followers: Follower[];

  /** Resolves when all of them watch: two at the other instance through the line that is cut, one where the replies are made. */
  static async make(on: Ground, chance: () => number): Promise<Watched> {
    const owner = await person(on.producer.deps.store);
    const made = await on.producer.call("/chat/create", { token: owner.token, body: {} });
    const watched = new Watched(on, chatOf(on.producer, made.json.id, owner), chance);
    await until(() => watched.#followers.every(({ connections }) => connections > 0));
    return watched;
  }

  private constructor(on: Ground, chat: Chat, chance: () => number) {
    this.#on = on;
    this.#chat = chat;
    const name = `${++Watched.#made} of ${process.pid}`;
    this.#replies = new Map([`one ${name}`, `two ${name}`].map((prompt) => [prompt, pieces(chance)]));
    this.#expected = new Map([...this.#replies].map(([prompt, list]) => [prompt, list.join("")]));
    const through = on.viewers.url(on.watcher.url);
    this.#followers = [through, through, on.producer.url].map(
      (url) => new Follower(new URL(`/chat/stream?id=${chat.id}`, url).href, chat.owner, this.#expected),
    );
  }

  /** Both replies, from somewhere in the fire on; each waits for `ending` before its end. */
  async ask(chance: () => number, ending: () => Promise<void>): Promise<void> {
    await Promise.all(
      [...this.#replies].map(async ([prompt, list]) => {
        const model = modelFor(this.#on.upstream, prompt);
        await sleep(chance() * 800);
        const answered = this.#chat.prompt({ prompt, stream: true });
        await model.asked;
        for (const piece of list) {
          await model.say(piece);
          await sleep(2 + chance() * 8);
        }
        await ending();
        model.end();
        const { status, json } = await answered;
        expect([status, json.reply]).toEqual([200, this.#expected.get(prompt)]);
      }),
    );
  }

  /** Who has not heard all of what. */
  missing(): string[] {
    return this.#followers.flatMap(({ whole, connections }, i) =>
      [...this.#replies.keys()].flatMap((prompt) =>
        whole.has(prompt) ? [] : [`viewer ${i}, ${connections} times connected: ${prompt}`],
      ),
    );
  }

  async leave(): Promise<void> {
    await Promise.all(this.#followers.map((follower) => follower.leave()));
  }

  async expectWhole(): Promise<void> {
    expect(this.#followers.flatMap(({ wrong }) => wrong)).toEqual([]);
    const rows = await this.#chat.rows();
    expect(rows.map(({ prompt, reply, state }) => [state, reply === this.#expected.get(prompt)])).toEqual([
      ["done", true],
      ["done", true],
    ]);
  }
}

/** A reply that goes on all the while, or is over before anybody knows. */
function pieces(chance: () => number): string[] {
  const length = Math.floor(chance() < 0.5 ? 1 + chance() * 5 : 60 + chance() * 60);
  const piece = () => ALPHABET[Math.floor(chance() * ALPHABET.length)] as string;
  return Array.from({ length }, () => piece() + (chance() < 0.3 ? piece() : ""));
}
