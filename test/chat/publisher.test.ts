import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Appended, BUS_OPTIONS, type Bus } from "../../lib/bus/bus.ts";
import { openMemory } from "../../lib/bus/memory.ts";
import { createPublisher, type Publisher } from "../../lib/chat/publisher.ts";
import type { MessageView } from "../../lib/repo/messages.ts";

/** Longer than a reply that says nothing goes without a sign of life. */
const BEATS_MS = 900;
const LEASE_MS = 600;

let bus: Bus;
beforeAll(() => {
  bus = openMemory({ ...BUS_OPTIONS, leaseMs: LEASE_MS });
});
afterAll(() => bus.close());

const newMessage = (): MessageView => ({
  ...{ id: randomUUID(), chatId: randomUUID(), seq: 1, userId: randomUUID(), username: "anna", state: "streaming" },
  ...{ prompt: "tell me", reply: "", model: "gpt-4o-mini", requestId: randomUUID(), fingerprint: "" },
  ...{
    contextTokens: null,
    promptTokens: null,
    completionTokens: null,
    stoppedBy: null,
    errorCode: null,
    flagged: null,
    image: null,
  },
  ...{ createdAt: new Date(), updatedAt: new Date() },
});

/** A publisher whose next write to the bus is on its way until it is let through. */
function held(message: MessageView): { publisher: Publisher; release(): void; writes(): number } {
  let release = () => {};
  const through = new Promise<void>((resolve) => {
    release = resolve;
  });
  let writes = 0;
  const append: Bus["append"] = async (...frame): Promise<Appended> => {
    writes++;
    await through;
    return bus.append(...frame);
  };
  const publisher = createPublisher(
    { bus: { ...bus, append }, log: () => {} },
    message,
    true,
    () => {},
    async () => true,
  );
  return { publisher, release, writes: () => writes };
}

describe("a publisher that is closed", () => {
  test.each(["before its frame is through", "after that"])(
    "%s says nothing more, so that its reply can be settled",
    async (when) => {
      const message = newMessage();
      const { publisher, release, writes } = held(message);
      publisher.add("Spain is");
      if (when === "after that") release();
      await sleep(0);
      publisher.close();
      release();
      await sleep(BEATS_MS);
      const [entry, ...more] = (await bus.since(message.chatId, null)) ?? [];
      expect(JSON.parse(entry?.text ?? "")).toMatchObject({ t: "begin", id: message.id });
      expect(more).toEqual([]);
      expect(writes()).toBe(1);
      expect(await bus.take(message.chatId, message.requestId)).toBe(true);
    },
  );
});

test("a publisher holds its reply while the model is silent, and says all of it once", async () => {
  const message = newMessage();
  const { publisher, release } = held(message);
  release();
  await sleep(BEATS_MS);
  expect(await bus.take(message.chatId, message.requestId)).toBe(false);
  publisher.add("Spain");
  publisher.add(" is");
  await publisher.end({ ...message, state: "done", reply: "Spain is" });
  const told = ((await bus.since(message.chatId, null)) ?? []).map(({ text }) => JSON.parse(text));
  expect(told.map(({ t }) => t)).toEqual(["begin", ...told.slice(1, -1).map(() => "delta"), "end"]);
  expect(told.flatMap(({ t, text }) => (t === "delta" ? [text] : [])).join("")).toBe("Spain is");
  expect(told.at(-1)).toMatchObject({ id: message.id, reply: "Spain is", state: "done" });
});
