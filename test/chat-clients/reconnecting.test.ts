import { setImmediate as turn } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Chat, type Chats, modelFor, startChats } from "../chat/support.ts";
import { random, seed, trials } from "../support/seed.ts";
import { startWire, type Wire } from "../support/wire.ts";
import {
  type Client,
  comingAgain,
  curl,
  eventSourceWithHeader,
  eventSourceWithTicket,
  fetchStreaming,
  hasCurl,
  type Place,
  undiciEventSourceWithTicket,
  undiciEventSourceWithToken,
  undiciWebSocketWithTicket,
  type Watching,
  wsWith,
  wsWithTicket,
} from "./clients.ts";
import { trickyPieces } from "./hearing.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterAll(() => chats.close());

/** A chat, and where it is watched from: behind a wire of its own. */
async function chatBehindWire(): Promise<{ chat: Chat; wire: Wire; place: Place }> {
  const chat = await chats.chat();
  const wire = await startWire(Number(new URL(chats.app.url).port));
  return { chat, wire, place: { url: `http://127.0.0.1:${wire.port}`, chatId: chat.id, person: chat.owner } };
}

/** Clients that come again at once: by themselves, or because their developer sees to it. */
const persistent: [what: string, client: Client][] = [
  ["undici's EventSource with a token", undiciEventSourceWithToken],
  ["undici's WebSocket with tickets and after=", undiciWebSocketWithTicket],
  ["ws with a bearer and after=", wsWith("bearer")],
  ["ws with the cookie and after=", wsWith("cookie")],
  ["ws with tickets and after=", wsWithTicket],
  ["fetch with after=", fetchStreaming],
];

/** Many are for `npm run test:faults`. */
const roundsTake = 20_000 + trials(0) * 5_000;

const whole = (text: string) => ({ streamed: text, whole: text, ends: 1 });

/** Everyone, once all are there. */
async function everyone(place: Place) {
  const all = persistent.map(([name, client]) => ({ name, client: comingAgain(client, place) }));
  await Promise.all(all.map(({ client }) => client.heard.until("a connection", () => client.connections > 0)));
  return all;
}

describe.concurrent(`cut in the middle (SEED=${seed})`, () => {
  test("every client that comes again has everything once", { timeout: roundsTake }, async () => {
    const next = random(seed);
    const { chat, wire, place } = await chatBehindWire();
    const all = await everyone(place);
    const texts: string[] = [];
    for (let round = 0; round < trials(2); round++) {
      const prompt = `round ${round}`;
      const pieces = trickyPieces(next, 80);
      const model = modelFor(chats.upstream, prompt);
      const asked = chat.prompt({ prompt, stream: true });
      for (const [at, piece] of pieces.entries()) {
        await model.say(piece);
        if (at === 40 || next() < 0.06) wire.cut();
        else if (next() < 0.1) await turn();
        // From time to time everyone hears what there is, so that there is something to go on from.
        if (at % 20 === 19) {
          const characters = pieces.slice(0, at + 1).join("").length - 1;
          await Promise.all(all.map(({ client }) => client.heard.partly(prompt, characters)));
        }
      }
      model.end();
      const text = pieces.join("");
      texts.push(text);
      expect((await asked).json.reply).toBe(text);
      for (const { name, client } of all)
        expect({ name, ...(await client.heard.ended(prompt)) }).toMatchObject({ name, ...whole(text) });
    }
    expect((await chat.rows()).map(({ reply }) => reply)).toEqual(texts);
    for (const { name, client } of all) {
      expect({ name, events: client.heard.events }).toEqual({ name, events: [] });
      expect(client.heard.messages.size).toBe(texts.length);
    }
    await Promise.all(all.map(({ client }) => client.leave()));
    await wire.close();
  });

  test("EventSource comes again by itself; one with a ticket in its URL gives up, and another goes on from where it was", async () => {
    const { chat, wire, place } = await chatBehindWire();
    const byHeader = await eventSourceWithHeader(place);
    const givingUp: [Client, Watching][] = await Promise.all(
      [eventSourceWithTicket, undiciEventSourceWithTicket, ...(hasCurl ? [curl] : [])].map(
        async (client): Promise<[Client, Watching]> => [client, await client(place)],
      ),
    );
    const heard = [byHeader, ...givingUp.map(([, watching]) => watching)].map((it) => it.heard);
    const pieces = trickyPieces(random(seed), 200);
    const model = modelFor(chats.upstream, "once");
    const asked = chat.prompt({ prompt: "once", stream: true });
    const say = async (from: number, to: number) => {
      for (const piece of pieces.slice(from, to)) await model.say(piece);
    };
    await say(0, 70);
    const characters = pieces.slice(0, 70).join("").length - 1;
    await Promise.all(heard.map((it) => it.partly("once", characters)));
    wire.cut();
    await say(70, 140);
    await Promise.all(givingUp.map(([, { over }]) => over));
    const others = await Promise.all(
      givingUp.map(([client, gone]) => client({ ...place, after: String(gone.heard.lastId) }, gone.heard)),
    );
    await say(140, pieces.length);
    model.end();
    expect((await asked).json.reply).toBe(pieces.join(""));
    for (const it of heard) {
      expect(await it.ended("once")).toMatchObject({ begun: 1, ...whole(pieces.join("")) });
      expect(it.events).toEqual([]);
    }
    for (const it of [byHeader, ...others]) it.leave();
    await wire.close();
  });

  test("streams that rotate after a few kilobytes leave nothing out, and say only that they do", async () => {
    const rotating = await startChats({}, { limits: { rotateBytes: 1_500 } });
    const chat = await rotating.chat();
    const all = await everyone({ url: rotating.app.url, chatId: chat.id, person: chat.owner });
    const pieces = trickyPieces(random(seed), 400);
    const model = modelFor(rotating.upstream, "long");
    const asked = chat.prompt({ prompt: "long", stream: true });
    for (const [at, piece] of pieces.entries()) {
      await model.say(piece);
      if (at % 40 !== 39) continue;
      const characters = pieces.slice(0, at + 1).join("").length - 1;
      await Promise.all(all.map(({ client }) => client.heard.partly("long", characters)));
    }
    model.end();
    expect((await asked).json.reply).toBe(pieces.join(""));
    for (const { name, client } of all) {
      expect({ name, ...(await client.heard.ended("long")) }).toMatchObject({ name, ...whole(pieces.join("")) });
      expect(new Set(client.heard.events)).toEqual(new Set(["rotate"]));
      expect(client.heard.events.length).toBeGreaterThan(1);
    }
    await Promise.all(all.map(({ client }) => client.leave()));
    await rotating.close();
  });
});
