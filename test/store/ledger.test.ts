import { eq } from "drizzle-orm";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type EventRow, search } from "../../lib/repo/events.ts";
import { openPostgres } from "../../lib/store/postgres.ts";
import type { Store } from "../../lib/store/store.ts";
import { type NeonBridge, startNeonBridge } from "../bridge/neon.ts";
import { freshDatabase, postgresUrl, skippedWithoutPostgres } from "../support/postgres.ts";
import { type Relay, startRelay } from "../support/relay.ts";
import { random, seed, trials } from "../support/seed.ts";
import { faults, type Handler } from "../support/upstream.ts";
import { answerByDefault, chatUsage } from "../support/upstream-answers.ts";
import { startWire, type Wire } from "../support/wire.ts";

const MODEL = { model: "gpt-4o", messages: [{ role: "user", content: "Hello" }] };
const skipped = skippedWithoutPostgres("the ledger's faults on Neon and Postgres");

let relay: Relay;
/** The database itself, past whatever is broken between it and the relay. */
let truth: Store;
let calls = 0;

/** Asks for a completion under a name of its own; `status` and the event it left, if any. */
async function call(name = `call-${++calls}`, body: object = MODEL) {
  const answer = await relay.get(`/v1/chat/completions?call=${name}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return { name, status: answer.status, headers: answer.headers, text: await answer.text() };
}
const many = (count: number) => Promise.all(Array.from({ length: count }, () => call()));
const asked = (name: string) => relay.upstream.requests.filter(({ target }) => target.endsWith(`call=${name}`)).length;

async function eventsOf(name: string): Promise<EventRow[]> {
  const rows = await search(truth, { endpoint: "proxy.v1", limit: 100_000 });
  return rows.filter(({ query }) => query === `call=${name}`);
}

/** `usage` says of this person exactly what the events say. */
async function expectUsageToEqualEvents(): Promise<void> {
  await relay.app.deps.ledger.settled(10_000);
  const rows = await search(truth, { user: relay.id, endpoint: "proxy.v1", limit: 100_000 });
  const sum = (values: (number | null)[]) => values.reduce<number>((total, value) => total + (value ?? 0), 0);
  const days = await truth.db.select().from(truth.usage).where(eq(truth.usage.userId, relay.id));
  const counted = {
    requests: sum(days.map(({ requests }) => requests)),
    promptTokens: sum(days.map(({ promptTokens }) => promptTokens)),
    completionTokens: sum(days.map(({ completionTokens }) => completionTokens)),
  };
  expect(counted).toEqual({
    requests: rows.length,
    promptTokens: sum(rows.map(({ promptTokens }) => promptTokens)),
    completionTokens: sum(rows.map(({ completionTokens }) => completionTokens)),
  });
  expect(new Set(rows.map(({ id }) => id)).size).toBe(rows.length);
}

const complete = {
  status: 200,
  errorCode: null,
  endedAt: expect.any(Date),
  promptTokens: chatUsage.prompt_tokens,
  completionTokens: chatUsage.completion_tokens,
};

/** Answers as usual, after something else has happened. */
const after =
  (happens: () => void): Handler =>
  (req, res, recorded) => {
    happens();
    return answerByDefault(req, res, recorded);
  };

describe.skipIf(skipped)("Neon", () => {
  let bridge: NeonBridge;
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  beforeAll(async () => {
    bridge = await startNeonBridge(postgresUrl as string);
    database = await freshDatabase();
    relay = await startRelay({ DB_ADDRESS: database.url, NEON_ENDPOINT: bridge.endpoint });
    truth = openPostgres(database.url);
  });
  afterEach(() => {
    bridge.requests.length = 0;
    bridge.onRequest = undefined;
    relay.reset();
  });
  afterAll(async () => {
    await Promise.all([relay?.close(), truth?.close()]);
    await bridge?.close();
    await database?.drop();
  });
  const down = () => {
    bridge.onRequest = () => Promise.reject(new Error("told to be down"));
  };
  const up = () => {
    bridge.onRequest = undefined;
  };

  test("a call makes one round trip before the upstream is asked and one after", async () => {
    bridge.requests.length = 0;
    let before = 0;
    relay.upstream.next(
      after(() => {
        before = bridge.requests.length;
      }),
    );
    expect(await call()).toMatchObject({ status: 200 });
    expect([before, bridge.requests.length]).toEqual([1, 2]);
    expect(bridge.requests.every(({ transaction }) => transaction)).toBe(true);
  });

  test("a token that is none makes no round trip, and one that has ended makes one and leaves nothing", async () => {
    const ended = (await relay.app.person()).token;
    await relay.app.call("/user/logout", { token: ended, body: {} });
    bridge.requests.length = 0;
    const ask = async (token: string) => (await relay.app.call("/v1/models?call=refused", { token })).status;
    expect([await ask(`pgs_${"x".repeat(50)}`), bridge.requests.length]).toEqual([401, 0]);
    expect([await ask(ended), bridge.requests.length]).toEqual([401, 1]);
    expect(await eventsOf("refused")).toEqual([]);
  });

  test("calls that arrive together share round trips", async () => {
    bridge.onRequest = () => farAway(150);
    const answers = await many(32);
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
    expect(bridge.requests.length).toBeLessThan(32);
    for (const { name } of answers) expect(await eventsOf(name)).toMatchObject([complete]);
    await expectUsageToEqualEvents();
  });

  test("an opening whose answer is lost is written and counted once, and the call goes on", async () => {
    bridge.fail("dropAnswer");
    const { name, status } = await call();
    expect([status, asked(name)]).toEqual([200, 1]);
    expect(await eventsOf(name)).toMatchObject([complete]);
    await expectUsageToEqualEvents();
  });

  test("an end whose answer is lost is written and counted once", async () => {
    relay.upstream.next(after(() => bridge.fail("dropAnswer")));
    const { name, status } = await call();
    expect([status, asked(name)]).toEqual([200, 1]);
    expect(await eventsOf(name)).toMatchObject([complete]);
    await expectUsageToEqualEvents();
  });

  test(
    `whatever the line loses, every call that reached the upstream has one event, counted once (seed ${seed})`,
    async () => {
      const chance = random(seed);
      for (let round = 0; round < trials(2); round++) {
        const lose = () => {
          const kind = Math.floor(chance() * 4);
          bridge.fail((["dropAnswer", "refuse", "status500"] as const)[kind] ?? { delayMs: 5 }, 1 + Math.floor(chance() * 2));
        };
        lose();
        relay.upstream.next(after(lose));
        relay.upstream.next(after(lose));
        const answers = await many(24);
        expect(answers.filter(({ status }) => status !== 200 && status !== 503)).toEqual([]);
        await relay.app.deps.ledger.settled(10_000);
        for (const { name, status } of answers) {
          const events = await eventsOf(name);
          expect([name, asked(name)]).toEqual([name, status === 200 ? 1 : 0]);
          if (status === 200) expect(events).toMatchObject([complete]);
          expect(events.length).toBeLessThanOrEqual(1);
        }
        await expectUsageToEqualEvents();
        // What was told to fail and did not come to it must not add up, nor fail the tests that follow.
        relay.reset();
        for (let well = 0; well < 5; )
          well = (await relay.app.deps.store.ping().catch(() => "failed")) === undefined ? well + 1 : 0;
      }
    },
    roundsTake(trials(2)),
  );

  test("while the store is down nothing reaches the upstream, nobody is told to sign in, and its return is enough", async () => {
    down();
    const refused = await many(8);
    for (const { name, status, headers, text } of refused) {
      expect([status, headers.get("retry-after"), asked(name)]).toEqual([503, "2", 0]);
      expect(JSON.parse(text)).toMatchObject({ error: { code: "store_unavailable", source: "gateway" } });
    }
    for (const path of ["/user/read", "/system/events"]) {
      expect((await relay.get(path)).status).toBe(503);
    }
    const login = await relay.app.call("/user/login", { body: { username: relay.username, password: "wrong password" } });
    expect([login.status, login.headers.get("retry-after")]).toEqual([503, "2"]);
    const signup = await relay.app.call("/user/signup", { body: { username: "nobody-yet", password: "long enough" } });
    expect(signup.status).toBe(503);
    expect((await relay.app.call("/health")).status).toBe(503);
    bridge.onRequest = undefined;
    bridge.fail("refuse", 2);
    expect((await call()).status).toBe(503);

    up();
    expect((await call()).status).toBe(200);
    expect((await relay.app.call("/health")).status).toBe(200);
    await expectUsageToEqualEvents();
  });

  test("a name that is taken is a conflict here as well", async () => {
    const answer = await relay.app.call("/user/signup", { body: { username: relay.username, password: "long enough" } });
    expect([answer.status, answer.json.error.code]).toEqual([409, "username_taken"]);
  });

  test("while an end cannot be written the client has its answer, and the end is written when the store is back", async () => {
    relay.upstream.next(after(down));
    const { name, status, text } = await call();
    expect(status).toBe(200);
    expect(JSON.parse(text)).toMatchObject({ usage: chatUsage });
    up();
    expect(await eventsOf(name)).toMatchObject([{ endedAt: null, status: null }]);
    await relay.app.deps.ledger.settled(10_000);
    expect(await eventsOf(name)).toMatchObject([complete]);
    await expectUsageToEqualEvents();
  });
});

describe.skipIf(skipped)("Postgres over TCP", () => {
  let wire: Wire;
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  beforeAll(async () => {
    wire = await startWire(Number(new URL(postgresUrl as string).port));
    database = await freshDatabase();
    relay = await startRelay({ DB_ADDRESS: wire.url(database.url) });
    truth = openPostgres(database.url);
  });
  afterEach(() => relay.reset());
  afterAll(async () => {
    await Promise.all([relay?.close(), truth?.close()]);
    await wire?.close();
    await database?.drop();
  });

  test("while the store is gone nothing reaches the upstream, nobody is told to sign in, and its return is enough", async () => {
    expect((await call()).status).toBe(200);
    for (let time = 0; time < 3; time++) {
      wire.refuse(true);
      wire.cut();
      const refused = await many(8);
      for (const { name, status, headers } of refused) {
        expect([status, headers.get("retry-after"), asked(name)]).toEqual([503, "2", 0]);
      }
      expect((await relay.get("/user/read")).status).toBe(503);
      const login = await relay.app.call("/user/login", { body: { username: relay.username, password: "wrong password" } });
      expect(login.status).toBe(503);
      expect((await relay.app.call("/health")).status).toBe(503);
      wire.refuse(false);
      expect((await call()).status).toBe(200);
    }
    await expectUsageToEqualEvents();
  });

  test("a line that is cut again and again costs no connection for good", async () => {
    const { store } = relay.app.deps;
    for (let time = 0; time < 40; time++) {
      const broken = store.atomic((q) => [q.select().from(store.settings), q.select().from(store.settings)]);
      wire.cut();
      await broken.catch(() => {});
    }
    expect((await many(20)).map(({ status }) => status)).toEqual(Array(20).fill(200));
    expect(await Promise.all(Array.from({ length: 10 }, () => settingsOf(store)))).toEqual(Array(10).fill([]));
  });

  test(
    `a line that is cut in the middle of work doubles nothing and loses nothing (seed ${seed})`,
    async () => {
      const chance = random(seed);
      for (let round = 0; round < trials(3); round++) {
        for (let at = 0, skips = Math.floor(chance() * 12); at <= skips; at++)
          relay.upstream.next(at < skips ? answerByDefault : after(() => wire.cut()));
        const working = many(24);
        if (chance() < 0.5) wire.cut();
        const answers = await working;
        expect(answers.filter(({ status }) => status !== 200 && status !== 503)).toEqual([]);
        await relay.app.deps.ledger.settled(10_000);
        for (const { name, status } of answers) {
          const events = await eventsOf(name);
          expect([name, asked(name)]).toEqual([name, status === 200 ? 1 : 0]);
          if (status === 200) expect(events).toMatchObject([complete]);
          expect(events.length).toBeLessThanOrEqual(1);
        }
        await expectUsageToEqualEvents();
      }
    },
    roundsTake(trials(3)),
  );

  test("an end that the store will never take is written without its content, and holds up nobody else's", async () => {
    const usage = { prompt_tokens: 3_000_000_000, completion_tokens: 1 };
    relay.upstream.next(faults.status(200, JSON.stringify({ model: "gpt-4o", usage }), { "content-type": "application/json" }));
    const [strange, ...others] = await Promise.all([call("strange"), ...Array.from({ length: 12 }, () => call())]);
    expect([strange, ...others].map(({ status }) => status)).toEqual(Array(13).fill(200));
    await relay.app.deps.ledger.settled(10_000);
    const rows = await Promise.all([strange, ...others].map(({ name }) => eventsOf(name).then(([row]) => row)));
    expect(rows.map((row) => row?.status)).toEqual(Array(13).fill(200));
    expect(rows.filter((row) => row?.promptTokens === null)).toHaveLength(1);
    await expectUsageToEqualEvents();
  });
});

/** The most that so many rounds may take, in milliseconds. */
const roundsTake = (rounds: number) => 20_000 + rounds * 3_000;

/** The line is as long as one between a function and its database. */
const farAway = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const settingsOf = ({ db, settings }: Store) => db.select().from(settings).where(eq(settings.key, "none"));
