import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Breaker, busError, Misfit } from "../../lib/bus/breaker.ts";
import { BusError } from "../../lib/bus/bus.ts";
import { type Attempt, Line } from "../../lib/bus/line.ts";

beforeEach(() => void vi.useFakeTimers({ toFake: ["performance", "setTimeout", "clearTimeout"] }));
afterEach(() => void vi.useRealTimers());

const causeOf = async (work: Promise<unknown>): Promise<string> => {
  const error = await work.then(
    () => {
      throw new Error("it did not fail");
    },
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(BusError);
  return String(((error as Error).cause as Error).message);
};
const OPEN = "it was down a moment ago";

describe("breaker", () => {
  const failing = () => Promise.reject(new Error("refused"));
  const working = () => Promise.resolve("well");
  const hanging = () => new Promise<never>(() => {});

  test("after a failure everything fails at once, until one trial succeeds", async () => {
    const breaker = new Breaker(1_000);
    expect(await breaker.run(working)).toBe("well");
    expect(vi.getTimerCount()).toBe(0);
    expect(await causeOf(breaker.run(failing))).toBe("refused");
    const unasked = vi.fn(working);
    expect(await causeOf(breaker.run(unasked))).toBe(OPEN);
    vi.advanceTimersByTime(499);
    expect(await causeOf(breaker.run(unasked))).toBe(OPEN);
    expect(unasked).not.toHaveBeenCalled();
    vi.advanceTimersByTime(1);
    let answer = (_: string) => {};
    const trial = breaker.run(
      () =>
        new Promise<string>((resolve) => {
          answer = resolve;
        }),
    );
    expect(await causeOf(breaker.run(unasked))).toBe(OPEN);
    answer("back");
    expect(await trial).toBe("back");
    expect(await Promise.all([breaker.run(working), breaker.run(working)])).toEqual(["well", "well"]);
  });

  test("pauses grow from half a second to five while trials fail, and begin anew after a success", async () => {
    const breaker = new Breaker(1_000);
    const pauseMs = () => {
      for (let ms = 0; ; ms += 100) {
        if (!breaker.isOpen) return ms;
        vi.advanceTimersByTime(100);
      }
    };
    const pauses: number[] = [];
    for (let i = 0; i < 6; i++) {
      expect(await causeOf(breaker.run(failing))).toBe("refused");
      pauses.push(pauseMs());
    }
    expect(pauses).toEqual([500, 1_000, 2_000, 4_000, 5_000, 5_000]);
    await breaker.run(working);
    await causeOf(breaker.run(failing));
    expect(pauseMs()).toBe(500);
  });

  test("what takes longer than it may fails then, and says so once", async () => {
    const late = vi.fn();
    const breaker = new Breaker(1_000, late);
    const cause = causeOf(breaker.run(hanging));
    await vi.advanceTimersByTimeAsync(999);
    expect(breaker.isOpen).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    expect(await cause).toBe("no answer within 1000 ms");
    expect([breaker.isOpen, late.mock.calls.length]).toEqual([true, 1]);
    expect(vi.getTimerCount()).toBe(0);
  });

  test("failures of what began before the pause do not prolong it", async () => {
    const breaker = new Breaker(1_000);
    const causes = [causeOf(breaker.run(hanging)), causeOf(breaker.run(hanging))];
    await vi.advanceTimersByTimeAsync(400);
    const later = causeOf(breaker.run(hanging));
    await vi.advanceTimersByTimeAsync(600);
    await Promise.all(causes);
    await vi.advanceTimersByTimeAsync(400);
    await later;
    expect(breaker.isOpen).toBe(true);
    await vi.advanceTimersByTimeAsync(100);
    expect(breaker.isOpen).toBe(false);
  });

  test("an odd answer is an error, and yet an answer", async () => {
    const breaker = new Breaker(1_000);
    expect(await causeOf(breaker.run(() => Promise.reject(new Misfit("WRONGTYPE"))))).toBe("WRONGTYPE");
    expect(breaker.isOpen).toBe(false);
    await causeOf(breaker.run(failing));
    vi.advanceTimersByTime(500);
    await causeOf(breaker.run(() => Promise.reject(new Misfit("WRONGTYPE"))));
    expect(await breaker.run(working)).toBe("well");
  });

  test("work that throws instead of failing is a failure too", async () => {
    const breaker = new Breaker(1_000);
    const cause = causeOf(
      breaker.run(() => {
        throw new Error("at once");
      }),
    );
    expect(await cause).toBe("at once");
    expect(breaker.isOpen).toBe(true);
  });

  test("an error keeps its reason and loses the command, which holds what people wrote", () => {
    const refused = Object.assign(new Error(""), { code: "ECONNREFUSED" });
    const cases: [unknown, string][] = [
      [new Error('ERR syntax error, command was: ["EVAL","secret"]'), "ERR syntax error"],
      [new Error("ERR unknown command 'EVALSHA', with args beginning with: 'secret'"), "ERR unknown command 'EVALSHA'"],
      [new Error('ERR a\nb, command was: ["x\nsecret"]'), "ERR a\nb"],
      [new TypeError("fetch failed", { cause: refused }), "ECONNREFUSED"],
      [
        Object.assign(new Error("parse: secret", { cause: new SyntaxError("secret") }), { name: "P" }),
        "P: the answer is not JSON",
      ],
      ["secret", "string"],
    ];
    for (const [thrown, expected] of cases) expect((busError(thrown).cause as Error).message).toBe(expected);
  });
});

describe("line", () => {
  /** A line whose attempts the test decides about. */
  const openLine = () => {
    const attempts: { at: number; stand(): void; fail(): void; end(): void; left: number; cut: number }[] = [];
    const dial = (): Attempt => {
      let settle = { stand: () => {}, fail: () => {} };
      let end = () => {};
      const up = new Promise<void>((resolve, reject) => {
        settle = { stand: resolve, fail: () => reject(new Error("refused")) };
      });
      const over = new Promise<void>((resolve) => {
        end = resolve;
      });
      const attempt = { at: performance.now(), ...settle, end, left: 0, cut: 0 };
      attempts.push(attempt);
      const leave = () => {
        attempt.left++;
        end();
      };
      const cut = () => {
        attempt.cut++;
        end();
      };
      return { up, over, leave, cut };
    };
    const onUp = vi.fn();
    const line = new Line(dial, 1_000, onUp);
    const last = () => attempts.at(-1) as (typeof attempts)[number];
    const turn = () => vi.advanceTimersByTimeAsync(0);
    /** How long it takes until there is one more attempt. */
    const pauseMs = async () => {
      const before = attempts.length;
      const from = performance.now();
      while (attempts.length === before) await vi.advanceTimersByTimeAsync(10);
      return last().at - from;
    };
    return { line, attempts, last, onUp, turn, pauseMs };
  };

  test("attempts that fail follow each other in growing pauses", async () => {
    const { line, last, turn, pauseMs, onUp } = openLine();
    const pauses: number[] = [];
    for (let i = 0; i < 9; i++) {
      last().fail();
      await turn();
      pauses.push(await pauseMs());
    }
    expect(pauses).toEqual([50, 100, 200, 400, 800, 1_600, 3_000, 3_000, 3_000]);
    expect(onUp).not.toHaveBeenCalled();
    line.close();
  });

  test("a line that ends at once each time is not dialled ever faster, and one that stood is soon back", async () => {
    const { line, last, turn, pauseMs } = openLine();
    const pauses: number[] = [];
    for (const stoodMs of [0, 0, 0, 60_000, 0]) {
      last().stand();
      await vi.advanceTimersByTimeAsync(stoodMs);
      last().end();
      await turn();
      pauses.push(await pauseMs());
    }
    expect(pauses).toEqual([50, 100, 200, 50, 100]);
    line.close();
  });

  test("an attempt that is not acknowledged in time is cut", async () => {
    const { line, attempts, last, pauseMs } = openLine();
    const up = line.up();
    const failed = expect(up).rejects.toThrow("no answer within 1000 ms");
    await vi.advanceTimersByTimeAsync(1_000);
    await failed;
    await pauseMs();
    expect([attempts.length, attempts[0]?.cut]).toEqual([2, 1]);
    last().stand();
    await line.up();
    line.close();
  });

  test("who asks while it pauses is not kept waiting", async () => {
    const { line, attempts, last, turn } = openLine();
    for (let i = 0; i < 6; i++) {
      last().fail();
      await turn();
      await vi.advanceTimersByTimeAsync(3_000);
    }
    last().fail();
    await turn();
    const before = attempts.length;
    const up = line.up();
    await turn();
    expect(attempts.length).toBe(before + 1);
    last().stand();
    await up;
    line.close();
  });

  test("a renewal cuts the line and dials at once, and not again while that is under way", async () => {
    const { line, attempts, last, turn, onUp, pauseMs } = openLine();
    last().stand();
    await turn();
    line.renew();
    line.renew();
    expect(line.isUp).toBe(false);
    await turn();
    expect([attempts.length, attempts[0]?.cut]).toEqual([2, 1]);
    line.renew();
    await turn();
    expect([attempts.length, last().cut]).toEqual([2, 0]);
    last().stand();
    await turn();
    expect([line.isUp, onUp.mock.calls.length]).toEqual([true, 2]);
    last().end();
    await turn();
    expect(await pauseMs()).toBe(50);
    last().fail();
    await turn();
    expect(await pauseMs()).toBe(100);
    line.close();
  });

  test("a closed line leaves, answers who waits, and never dials again", async () => {
    const { line, attempts, last, turn, onUp } = openLine();
    const waiting = expect(line.up()).rejects.toThrow("closed");
    line.close();
    await waiting;
    last().stand();
    await turn();
    expect([attempts.length, last().left > 0, onUp.mock.calls.length]).toEqual([1, true, 0]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(attempts.length).toBe(1);
    const standing = openLine();
    standing.last().stand();
    await standing.turn();
    standing.line.close();
    await standing.turn();
    expect(vi.getTimerCount()).toBe(0);
    expect([standing.line.isUp, standing.last().left]).toEqual([false, 1]);
  });
});
