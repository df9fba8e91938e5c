import { afterAll, beforeAll, expect, test } from "vitest";
import { type Chat, type Chats, modelFor, startChats } from "../chat/support.ts";
import { random, seed, trials } from "../support/seed.ts";
import { startWire } from "../support/wire.ts";
import { comingAgain, type Place, wsThatResumes, wsWith } from "./clients.ts";
import { trickyPieces } from "./hearing.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterAll(() => chats.close());

/** Many are for `npm run test:faults`. */
const roundsTake = 20_000 + trials(0) * 5_000;

const seenFrom = (chat: Chat, url = chats.app.url): Place => ({ url, chatId: chat.id, person: chat.owner });

test("who says resume on a new stream gets what was missed, and nothing of a running reply twice", async () => {
  const chat = await chats.chat();
  const [ended, running] = [modelFor(chats.upstream, "ended"), modelFor(chats.upstream, "running")];
  const before = await wsWith("bearer")(seenFrom(chat));
  const asked = [chat.prompt({ prompt: "ended", stream: true }), chat.prompt({ prompt: "running", stream: true })];
  await Promise.all([ended.say("one "), running.say("uno ")]);
  await Promise.all([before.heard.partly("ended", 4), before.heard.partly("running", 4)]);
  before.leave();
  await before.over;
  const seen = String(before.heard.lastId);
  await Promise.all([ended.say("two"), running.say("due ")]);
  ended.end();
  await asked[0];

  const after = await wsWith("bearer")(seenFrom(chat), before.heard);
  // What is running comes at once; only then is said what else is wanted.
  await after.heard.until("the running reply", ({ messages }) => [...messages.values()].some(({ begun }) => begun === 2));
  after.say({ resume: seen });
  expect(await after.heard.ended("ended")).toMatchObject({ whole: "one two", ends: 1 });
  await running.say("tre");
  running.end();
  await asked[1];
  expect(await after.heard.ended("running")).toMatchObject({ streamed: "uno due tre", whole: "uno due tre", ends: 1 });
  expect(after.heard.events).toEqual([]);
  after.leave();
});

test(`who is cut again and again, and says resume each time, has every reply whole (SEED=${seed})`, {
  timeout: roundsTake,
}, async () => {
  const next = random(seed);
  const chat = await chats.chat();
  const wire = await startWire(Number(new URL(chats.app.url).port));
  const client = comingAgain(wsThatResumes, seenFrom(chat, `http://127.0.0.1:${wire.port}`));
  await client.heard.until("a connection", () => client.connections > 0);
  for (let round = 0; round < trials(2); round++) {
    const prompt = `round ${round}`;
    const pieces = trickyPieces(next, 80);
    const model = modelFor(chats.upstream, prompt);
    const asked = chat.prompt({ prompt, stream: true });
    for (const piece of pieces) {
      await model.say(piece);
      if (next() < 0.08) wire.cut();
    }
    model.end();
    await asked;
    const { whole, streamed } = await client.heard.ended(prompt);
    expect(whole).toBe(pieces.join(""));
    // What ended while nobody listened is said whole, and not in pieces.
    expect(whole).toContain(streamed);
  }
  await client.leave();
  await wire.close();
});

test("who says resume while the store is down is sent away, and the process lives", async () => {
  const alone = await startChats();
  const chat = await alone.chat();
  const { heard, over, say } = await wsWith("bearer")(seenFrom(chat, alone.app.url));
  await alone.app.deps.store.close();
  say({ resume: "1-1" });
  await over;
  expect([heard.messages.size, heard.events]).toEqual([0, []]);
  expect(alone.lines).toContainEqual(
    expect.objectContaining({ severity: "ERROR", cause: expect.stringContaining("StoreError") }),
  );
  await alone.close();
});

test("who says resume several times at once hears everything once", async () => {
  const chat = await chats.chat();
  const place = seenFrom(chat);
  const [once, thrice] = [await wsWith("bearer")(place), await wsWith("bearer")(place)];
  await chat.prompt("before");
  await Promise.all([once, thrice].map(({ heard }) => heard.ended("before")));
  for (const id of [String(once.heard.lastId), "1-1", "2-2"]) thrice.say({ resume: id });
  await thrice.heard.until("the answer to the last", ({ events }) => events.includes("reset"));
  await chat.prompt("after");
  await chat.prompt("last");
  await Promise.all([once, thrice].map(({ heard }) => heard.ended("last")));
  expect(thrice.heard.of("after")).toMatchObject({ begun: 1, ends: 1 });
  expect(thrice.heard.events).toEqual(["reset"]);
  for (const it of [once, thrice]) it.leave();
});
