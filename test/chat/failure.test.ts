import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { expectRefusal } from "../support/answers.ts";
import { type Answer, KEY } from "../support/app.ts";
import { freePort } from "../support/ports.ts";
import { faults, type Handler } from "../support/upstream.ts";
import { sse } from "../support/upstream-answers.ts";
import { type Chat, type Chats, promptStream, replying, sent, startChats, type Viewer } from "./support.ts";

/** Products that differ in what is behind them: none, one that is given little time, and one that may not pause for long. */
type Place = "here" | "dead" | "hurried" | "watched";
type Case = {
  what: string;
  on?: Place;
  /** What the calls are answered with, in turn; the last one again and again. */
  handlers: Handler[];
  status: number;
  code: string;
  /** What came of the reply. */
  reply?: string;
  /** Null: as often as there is time, three times at most. */
  calls?: number | null;
  retryAfter?: string;
};

const word = (content: string) => sse({ choices: [{ index: 0, delta: { content } }] });
const events = { "content-type": "text/event-stream" };
const error = (code: string) => ({ error: { message: `Bad ${KEY}`, type: "server_error", code, param: null } });
const cases: Case[] = [
  { what: "cannot be reached", on: "dead", handlers: [], status: 502, code: "upstream_unreachable", calls: 0 },
  { what: "hangs", on: "hurried", handlers: [faults.hang()], status: 504, code: "upstream_timeout" },
  { what: "is silent after its headers", on: "watched", handlers: [faults.stallAfter(0)], status: 504, code: "upstream_stalled" },
  {
    ...{ what: "falls silent", on: "watched", handlers: [faults.stallAfter(3)] },
    ...{ status: 504, code: "upstream_stalled", reply: "word-0 word-1 word-2 " },
  },
  { what: "says 400", handlers: [faults.status(400, error("x"))], status: 502, code: "upstream_refused" },
  { what: "says 403", handlers: [faults.status(403, "<html>no</html>")], status: 502, code: "upstream_refused" },
  { what: "says 404", handlers: [faults.status(404, error("model_not_found"))], status: 502, code: "upstream_refused" },
  { what: "says 401", handlers: [faults.status(401, error("invalid_api_key"))], status: 502, code: "upstream_key_rejected" },
  { what: "says 302", handlers: [faults.redirect("http://127.0.0.1:1/")], status: 502, code: "upstream_garbled" },
  { what: "says 500", handlers: [faults.status(500, error("server_error"))], status: 502, code: "upstream_failed", calls: 3 },
  { what: "says 503", handlers: [faults.status(503, "")], status: 502, code: "upstream_failed", calls: 3 },
  { what: "says 408", handlers: [faults.status(408, "")], status: 502, code: "upstream_refused", calls: 3 },
  {
    ...{ what: "says 429, and when to come again", handlers: [faults.status(429, error("x"), { "retry-after": "1" })] },
    ...{ status: 503, code: "upstream_busy", calls: 3, retryAfter: "1" },
  },
  {
    ...{ what: "says 429, and to wait long", handlers: [faults.status(429, error("x"), { "retry-after": "30" })] },
    ...{ status: 503, code: "upstream_busy", calls: 1, retryAfter: "30" },
  },
  {
    ...{ what: "says 429 for a quota", handlers: [faults.status(429, error("insufficient_quota"))] },
    ...{ status: 503, code: "upstream_busy", calls: 1, retryAfter: "2" },
  },
  { what: "resets at once", handlers: [faults.resetBeforeHeaders()], status: 502, code: "upstream_reset", calls: null },
  { what: "resets after its headers", handlers: [faults.resetMidStream(0)], status: 502, code: "upstream_reset" },
  {
    ...{ what: "resets in the middle", handlers: [faults.resetMidStream(3)] },
    ...{ status: 502, code: "upstream_reset", reply: "word-0 word-1 word-2 " },
  },
  {
    ...{ what: "closes in the middle", handlers: [faults.resetMidStream(3, "fin")] },
    ...{ status: 502, code: "upstream_reset", reply: "word-0 word-1 word-2 " },
  },
  {
    ...{ what: "ends without an end", handlers: [faults.endWithoutTerminal()] },
    ...{ status: 502, code: "upstream_reset", reply: "word-0 word-1 word-2 " },
  },
  { what: "ends with nothing", handlers: [faults.status(200, "", events)], status: 502, code: "upstream_reset" },
  {
    ...{ what: "garbles its JSON", handlers: [faults.slices(`${word("Spain ")}data: {"choices":[{"del\n\n`, [9])] },
    ...{ status: 502, code: "upstream_garbled", reply: "Spain " },
  },
  { what: "is a web page", handlers: [faults.status(200, "<html>Hello</html>")], status: 502, code: "upstream_garbled" },
  {
    ...{ what: "reports an error in the middle", handlers: [faults.slices(word("Spain ") + sse(error("server_error")), [50])] },
    ...{ status: 502, code: "upstream_failed", reply: "Spain " },
  },
  {
    ...{ what: "fails, and fails in another way", handlers: [faults.status(500, ""), faults.resetMidStream(1)] },
    ...{ status: 502, code: "upstream_reset", reply: "word-0 ", calls: 2 },
  },
];

type Ran = {
  place: Chats;
  chat: Chat;
  id: string;
  answer: Answer;
  again: Answer;
  own: Viewer;
  viewer: Viewer;
  calls: number;
  next: Answer | null;
};

const places = new Map<Place, Chats>();
const runs = new Map<Case, Promise<Ran>>();
beforeAll(async () => {
  const port = await freePort();
  places.set("here", await startChats());
  places.set("dead", await startChats({ API_URL: `http://127.0.0.1:${port}` }));
  places.set("hurried", await startChats({ UPSTREAM_TIMEOUT: "1" }));
  const watched = await startChats();
  Object.assign(watched.app.deps.config.upstream, { stallMs: 400 });
  places.set("watched", watched);
  // What fails fails in the test that waits for it.
  for (const it of cases) runs.set(it, run(it));
  for (const ran of runs.values()) ran.catch(() => {});
});
afterAll(async () => {
  await Promise.allSettled(runs.values());
  await Promise.all([...places.values()].map((it) => it.close()));
});

/** A prompt by JSON and one by events that come to this end, and what goes on in their chat. */
async function run({ what, on = "here", handlers }: Case): Promise<Ran> {
  const place = places.get(on) as Chats;
  const { app, upstream } = place;
  let calls = 0;
  for (const prompt of [what, `${what}, by events`]) {
    let turn = 0;
    upstream.when(
      async (recorded) => (await sent(recorded)).messages.at(-1)?.content === prompt,
      async (...call) => {
        if (prompt === what) calls++;
        await handlers[Math.min(turn++, handlers.length - 1)]?.(...call);
      },
    );
  }
  const chat = await place.chat(1);
  const viewer = await chat.watch(chat.others[0]);
  const id = randomUUID();
  const said = { prompt: what, stream: true, message_id: id };
  const byEvents = promptStream(app.url, chat.owner.token, { id: chat.id, prompt: `${what}, by events` });
  const answer = await chat.prompt(said);
  const again = await chat.prompt(said);
  const own = await byEvents;
  await own.over;
  await Promise.all([viewer.ended(id), viewer.ended(`${what}, by events`)]);
  viewer.leave();
  const next = on === "dead" ? null : await chat.prompt(`after ${what}`);
  return { place, chat, id, answer, again, own, viewer, calls, next };
}

describe.each(cases)("an upstream that $what", (it) => {
  const { status, code, reply = "", calls = 1, what } = it;
  const ran = () => runs.get(it) as Promise<Ran>;

  test(`is told the prompter: ${status} ${code}`, async () => {
    const { answer, again, calls: made } = await ran();
    expectRefusal(answer, status, code);
    expect(answer.headers.get("retry-after")).toBe(it.retryAfter ?? (status === 503 ? "2" : null));
    expectRefusal(again, status, code);
    if (calls !== null) expect(made).toBe(calls);
    else expect([1, 2, 3]).toContain(made);
    for (const { text } of [answer, again])
      for (let at = 0; at + 8 <= KEY.length; at++) expect(text).not.toContain(KEY.slice(at, at + 8));
  });

  test("leaves the message failed, with what came of it, and everybody who watches knows", async () => {
    const { chat, id, viewer } = await ran();
    const message = { id, state: "failed", reply, error_code: code, stopped_by: null };
    expect((await chat.read()).find((each) => each.id === id)).toMatchObject(message);
    expect(viewer.find(id)).toMatchObject({ begun: 1, streamed: reply, whole: reply, ends: 1 });
    const of = (each: { data: Record<string, unknown> }) => (each.data.message as { id: string } | undefined)?.id === id;
    const [before, last] = viewer.heard.filter(of).slice(-2);
    expect(before).toMatchObject({ event: "failed", data: { message: { id }, error: { code } } });
    expect(last).toMatchObject({ event: null, data: { message: { id, reply }, partial: false } });
  });

  test("is told a prompter by events in the same frames", async () => {
    const { own } = await ran();
    expect(own.status).toBe(200);
    const [message] = [...own.messages.values()];
    expect(message).toMatchObject({ begun: 1, streamed: reply, whole: reply, ends: 1 });
    const [before, last] = own.heard.slice(-2);
    expect(before).toEqual({ id: null, event: "failed", data: { message: { id: message?.id }, error: { code } } });
    expect(last).toMatchObject({ event: null, data: { message: { id: message?.id, reply }, partial: false } });
  });

  test("stands in the event, with what it used", async () => {
    const { place, answer, own, chat } = await ran();
    for (const each of [answer, own]) {
      const event = await place.eventOf(each);
      expect(event).toMatchObject({ status, errorCode: code, chatId: chat.id, model: "gpt-4o-mini" });
      if (reply === "") expect([event.promptTokens, event.completionTokens]).toEqual([null, null]);
      else expect([event.promptTokens, event.completionTokens]).toEqual([expect.toSatisfy(isCount), expect.toSatisfy(isCount)]);
      expect(JSON.stringify(event)).not.toContain(KEY.slice(0, 12));
    }
    const said = JSON.stringify(place.lines);
    expect(said).not.toContain(KEY.slice(0, 12));
    expect(said).not.toContain(what);
  });

  test("is in no later context, and the chat goes on", async () => {
    const { place, next } = await ran();
    if (!next) return expect(it.on).toBe("dead");
    expect(next.json.message).toMatchObject({ state: "done", seq: 3 });
    const bodies = await Promise.all(place.upstream.requests.map(sent));
    const body = bodies.find(({ messages }) => messages.at(-1)?.content === `after ${what}`);
    expect(body?.messages).toHaveLength(1);
  });
});

const isCount = (value: unknown) => Number.isInteger(value) && (value as number) > 0;

describe("an upstream that recovers in time", () => {
  test.each<[what: string, first: Handler[], calls: number]>([
    ["after a 500", [faults.status(500, "")], 2],
    ["after two 503", [faults.status(503, ""), faults.status(503, "")], 3],
    ["after a 429 that says when", [faults.status(429, "", { "retry-after": "1" })], 2],
    ["after a reset", [faults.resetBeforeHeaders()], 2],
  ])("%s: the reply is whole, once", async (_what, first, calls) => {
    const place = await startChats();
    const chat = await place.chat();
    const viewer = await chat.watch();
    for (const handler of first) place.upstream.next(handler);
    place.upstream.next(replying(["Spain ", "is."]));
    const { status, json } = await chat.prompt({ prompt: "hi", stream: true });
    expect([status, json.message]).toMatchObject([200, { state: "done", reply: "Spain is.", error_code: null }]);
    expect(place.upstream.requests).toHaveLength(calls);
    expect(await viewer.ended("hi")).toMatchObject({ begun: 1, ends: 1, streamed: "Spain is." });
    expect(viewer.named("failed")).toEqual([]);
    await place.close();
  });
});
