import { EventSource } from "eventsource";
import { EventSource as BrowserEventSource } from "undici";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { ApiError } from "../../lib/http/error.ts";
import { Frame } from "../../lib/http/frame.ts";
import { countEvents, expectOurs, expectRefusal } from "../support/answers.ts";
import { answersIn, everything, open, request, write } from "../support/raw.ts";
import { until } from "../support/relay.ts";
import { random, seed, trials } from "../support/seed.ts";
import { bearer, startTalk, type Talk, type Watcher, watch } from "./talk.ts";

const LISTED = "https://app.example.com";
const PATH = "/talk/stream";

let talk: Talk;
beforeAll(async () => {
  talk = await startTalk({ env: { ALLOWED_ORIGINS: LISTED } });
});
afterEach(() => talk.quiet());
afterAll(() => talk.close());

const url = (path = PATH) => talk.app.url + path;
const message = (n: number, id: string | null = `${n}-0`) => new Frame(JSON.stringify({ n }), { id });

/** A watcher, and their seat. */
async function joined(path = PATH, ask: Parameters<typeof watch>[1] = {}) {
  const seat = talk.seat();
  const watcher = await watch(url(path), { ...ask, headers: { ...bearer(talk.alice), ...ask.headers } });
  return { watcher, ...(await seat) };
}

describe("frames", () => {
  test("go over the wire byte for byte: ids, names, data, and nothing around them", async () => {
    talk.onOpen = (viewer) => viewer.send(new Frame('{"first":true}', { id: "1-0" }));
    const socket = await open(talk.app.url);
    const bytes = everything(socket);
    const seat = talk.seat();
    await write(socket, request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${talk.alice.token}`]));
    const { viewer } = await seat;
    expect(viewer.send(new Frame('{"message":{"reply":"Spain is"},"partial":true}', { id: "1795290429334-0" }))).toBe(true);
    viewer.send(new Frame('{"by":"anna"}', { event: "stopped", id: "2-0" }));
    viewer.send(new Frame("{}", { event: "reset" }));
    viewer.send(new Frame("[DONE]"));
    viewer.end(null, new Frame('{"last":1}'));
    const text = (await bytes).toString("utf8");
    const [head = "", body = ""] = text.split(/\r\n\r\n(.*)/s);
    expect(body).toBe(
      'id: 1-0\ndata: {"first":true}\n\n' +
        'id: 1795290429334-0\ndata: {"message":{"reply":"Spain is"},"partial":true}\n\n' +
        'id: 2-0\nevent: stopped\ndata: {"by":"anna"}\n\n' +
        "event: reset\ndata: {}\n\n" +
        "data: [DONE]\n\n" +
        'data: {"last":1}\n\n',
    );
    const [answer] = answersIn(Buffer.from(`${head}\r\n\r\n`));
    expect(answer?.status).toBe(200);
    expectOurs({ ...(answer as NonNullable<typeof answer>) });
    expect(answer?.headers).toMatchObject({
      "content-type": "text/event-stream",
      "x-accel-buffering": "no",
      connection: "close",
      vary: "origin",
    });
    for (const name of ["transfer-encoding", "content-length", "keep-alive", "set-cookie"])
      expect(answer?.headers).not.toHaveProperty(name);
  });

  test("are Unicode, of any length, and whole however many are sent in one turn", async () => {
    const { watcher, viewer } = await joined();
    const odd = { text: "grüße 🎉 日本 \u2028 \u2029 \u0000 \r\n \ud800", quote: '"\\' };
    const texts = [JSON.stringify(odd), JSON.stringify({ long: "ä🎉".repeat(50_000) })];
    const next = async (frame: Frame) => {
      if (viewer.send(frame)) return;
      await new Promise<void>((resolve) => {
        viewer.onDrain = resolve;
      });
    };
    for (const text of texts) await next(new Frame(text, { id: "a" }));
    for (let n = 0; n < 2_000; n++) await next(message(n));
    viewer.end();
    expect(await watcher.over).toBe("ended");
    const numbers = Array.from({ length: 2_000 }, (_, n) => `id: ${n}-0\ndata: {"n":${n}}\n\n`);
    expect(watcher.text() === texts.map((text) => `id: a\ndata: ${text}\n\n`).join("") + numbers.join("")).toBe(true);
  });

  test(`are the same for all, however sends are spread over turns (seed ${seed})`, async () => {
    const chance = random(seed);
    const seats: Awaited<ReturnType<typeof joined>>[] = [];
    while (seats.length < 5) seats.push(await joined());
    let text = "";
    for (let n = 0; n < trials(500); n++) {
      const frame = new Frame(JSON.stringify({ n, pad: "x".repeat(Math.floor(chance() * 40)) }), { id: `${n}` });
      text += frame.sse.toString();
      for (const { viewer } of seats) expect(viewer.send(frame)).toBe(true);
      const gap = chance();
      if (gap < 0.2) await new Promise((resolve) => setImmediate(resolve));
      else if (gap < 0.3) await Promise.resolve();
      else if (gap < 0.35) await new Promise((resolve) => process.nextTick(resolve));
    }
    for (const { viewer, watcher } of seats) {
      viewer.end();
      expect(await watcher.over).toBe("ended");
      expect(watcher.text() === text).toBe(true);
    }
  });
});

describe("a client", () => {
  test("of the library eventsource hears messages, and names only where it listens for them", async () => {
    const withToken = (input: string | URL, init: object) =>
      fetch(input, { ...init, headers: { ...(init as { headers: object }).headers, ...bearer(talk.alice) } });
    const heard: unknown[] = [];
    const seat = talk.seat();
    const source = new EventSource(url(), { fetch: withToken as never });
    source.addEventListener("message", ({ data, lastEventId }) => heard.push([data, lastEventId]));
    source.addEventListener("stopped", ({ data }) => heard.push(["stopped", data]));
    const { viewer } = await seat;
    viewer.send(message(1));
    viewer.send(new Frame("{}", { event: "ping" }));
    viewer.send(new Frame('{"by":"x"}', { event: "stopped" }));
    viewer.send(message(2));
    await until(() => heard.length === 3);
    source.close();
    expect(heard).toEqual([
      ['{"n":1}', "1-0"],
      ["stopped", '{"by":"x"}'],
      ['{"n":2}', "2-0"],
    ]);
  });

  test("that comes again by itself says what it has", async () => {
    const source = new BrowserEventSource(`${url()}?token=${talk.alice.token}&after=0-7`);
    const first = await talk.seat();
    expect(first.viewer.lastEventId).toBe("0-7");
    const heard = new Promise<string>((resolve) => {
      source.addEventListener("message", ({ lastEventId }) => resolve(String(lastEventId)));
    });
    first.viewer.send(new Frame("{}", { id: "4-2" }));
    expect(await heard).toBe("4-2");
    const again = talk.seat();
    first.viewer.end();
    expect((await again).viewer.lastEventId).toBe("4-2");
    source.close();
    await talk.empty();
  });

  test("of fetch reads it as it comes", async () => {
    const seat = talk.seat();
    const answer = await fetch(url(), { headers: bearer(talk.alice) });
    const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
    const { viewer } = await seat;
    for (const n of [1, 2]) {
      viewer.send(message(n));
      expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe(message(n).sse.toString());
    }
    viewer.end();
    expect((await reader.read()).done).toBe(true);
  });
});

describe("what is asked", () => {
  const json = { "content-type": "application/json" };
  const form = { "content-type": "application/x-www-form-urlencoded" };
  test.each<[what: string, path: string, ask: Parameters<typeof watch>[1], room: string | undefined, last: string | null]>([
    ["a query", `${PATH}?room=r&after=5-1`, {}, "r", "5-1"],
    ["JSON", PATH, { method: "POST", headers: json, body: '{"room":"r","after":"5-1"}' }, "r", "5-1"],
    ["a form", PATH, { method: "POST", headers: form, body: "room=r&after=5-1" }, "r", "5-1"],
    ["JSON under a form's type", PATH, { method: "POST", headers: form, body: '{"room":"r"}' }, "r", null],
    ["an empty POST", PATH, { method: "POST" }, undefined, null],
    ["the header alone", PATH, { headers: { "last-event-id": "9-9" } }, undefined, "9-9"],
    ["the header over the query", `${PATH}?after=5-1`, { headers: { "last-event-id": "9-9" } }, undefined, "9-9"],
    ["an empty header", `${PATH}?after=5-1`, { headers: { "last-event-id": "" } }, undefined, "5-1"],
    ["an empty after", `${PATH}?after=`, {}, undefined, null],
    ["a path that is escaped", "/talk/str%65am?room=r", {}, "r", null],
  ])("by %s", async (_what, path, ask, room, last) => {
    const { watcher, viewer, room: asked } = await joined(path, ask);
    expect([watcher.status, asked, viewer.lastEventId]).toEqual([200, room, last]);
    viewer.end();
    await watcher.over;
  });

  test("is parsed as for an endpoint, and refused in JSON", async () => {
    const { token } = talk.alice;
    const ask = (path: string, options: object = {}) => talk.app.call(path, { token, ...options });
    expectRefusal(await ask(`${PATH}?room=${"x".repeat(65)}`), 400, "invalid_input");
    expectRefusal(await ask(`${PATH}?after=${"x".repeat(257)}`), 400, "invalid_input");
    expectRefusal(await ask(`${PATH}?room=%zz`), 400, "bad_form");
    expectRefusal(await ask(PATH, { body: "{", headers: json }), 400, "bad_json");
    expectRefusal(await ask(PATH, { body: "[]", headers: json }), 400, "bad_json");
    expectRefusal(await ask(PATH, { body: "a=%zz", headers: form }), 400, "bad_form");
    expectRefusal(await ask(PATH, { body: "<x/>", headers: { "content-type": "text/xml" } }), 415);
    expectRefusal(await ask(PATH, { body: "{}", headers: { ...json, "content-encoding": "gzip" } }), 415);
    expectRefusal(await ask(`${PATH}?room=a`, { body: { room: "b" } }), 400, "invalid_input");
    expectRefusal(await ask("/talk/post", { body: { room: "x".repeat(100) } }), 413, "too_large");
    const chunked = new Blob([JSON.stringify({ room: "x".repeat(100) })]).stream();
    const headers = { ...bearer(talk.alice), ...json };
    const answer = await fetch(url("/talk/post"), { method: "POST", headers, body: chunked, duplex: "half" } as RequestInit);
    expect(answer.status).toBe(413);
    expect(await talk.event(answer.headers.get("x-proxy-gpt-request-id"))).toMatchObject({ status: 413, errorCode: "too_large" });
  });

  test("by HEAD is answered with the head alone, and attaches nobody", async () => {
    const before = talk.seats.length;
    const answer = await talk.app.call(PATH, { token: talk.alice.token, method: "HEAD" });
    expect(answer).toMatchObject({ status: 200, text: "" });
    expectOurs(answer);
    expect(answer.headers.get("content-type")).toBe("text/event-stream");
    expect(await talk.event(answer.headers.get("x-proxy-gpt-request-id"))).toMatchObject({ method: "HEAD", status: 200 });
    expect(await talk.app.call(PATH, { method: "HEAD" })).toMatchObject({ status: 401, text: "" });
    expect(talk.seats).toHaveLength(before);
  });

  test("by OPTIONS and by another method is answered as for an endpoint", async () => {
    const rows = await countEvents(talk.app);
    for (const [path, taken] of [
      [PATH, "GET, POST, HEAD, OPTIONS"],
      ["/talk/open", "GET, HEAD, OPTIONS"],
      ["/talk/post", "POST, OPTIONS"],
      ["/talk/shared", "GET, POST, HEAD, OPTIONS"],
    ] as const) {
      const asked = { origin: LISTED, "access-control-request-method": "GET", "access-control-request-headers": "last-event-id" };
      const preflight = await talk.app.call(path, { method: "OPTIONS", headers: asked });
      expect(preflight).toMatchObject({ status: 204, text: "" });
      expectOurs(preflight, LISTED);
      expect(preflight.headers.get("access-control-allow-methods")).toBe(taken);
      expect(preflight.headers.get("access-control-allow-headers")).toBe("last-event-id");
      for (const method of [
        "PUT",
        "DELETE",
        "PATCH",
        ...(taken.includes("GET") ? [] : ["GET"]),
        ...(taken.includes("POST") ? [] : ["POST"]),
      ]) {
        const answer = await talk.app.call(path, { method });
        expectRefusal(answer, 405, "method_not_allowed");
        expect(answer.headers.get("allow")).toBe(taken);
      }
    }
    for (const path of ["/talk/stream/", "/stream", "//talk/stream", "/TALK/stream", "/talk/streams", "/talk/stream%2f"])
      expectRefusal(await talk.app.call(path, { token: talk.alice.token }), 404, "not_found");
    expect(await countEvents(talk.app)).toBe(rows);
  });

  test("on a path that an endpoint shares by another method goes to the right one", async () => {
    expect((await talk.app.call("/talk/shared", { body: {} })).json).toEqual({ caller: null });
    const { watcher, viewer } = await joined("/talk/shared");
    expect(watcher.headers["content-type"]).toBe("text/event-stream");
    viewer.end();
    await watcher.over;
  });

  test("is described", async () => {
    const { json } = await talk.app.call("/openapi.json");
    const { get, post } = json.paths[PATH];
    expect(Object.keys(get.responses["200"].content)).toEqual(["text/event-stream"]);
    expect(get.responses).toHaveProperty("101");
    expect(get.parameters.map(({ name }: { name: string }) => name)).toEqual(["room", "after"]);
    expect(get.security.flatMap(Object.keys)).toEqual(["bearer", "basic", "cookie", "token"]);
    expect(post.operationId).toBe("talk.stream.post");
    expect(json.components.securitySchemes.token).toMatchObject({ in: "query", name: "token" });
    expect(Object.keys(json.paths["/talk/answer"].post.responses["200"].content)).toEqual([
      "application/json",
      "text/event-stream",
    ]);
  });

  test("of a function that stands alone, with its name in front and without", async () => {
    const alone = await startTalk({ alone: true });
    for (const path of ["/talk/open", "/open"]) {
      const seat = alone.seat();
      const watcher = await watch(alone.app.url + path);
      expect(watcher.status).toBe(200);
      (await seat).viewer.end();
      await watcher.over;
    }
    expectRefusal(await alone.app.call("/stream"), 401);
    await alone.close();
  });
});

describe("a refusal before anything was sent is an ordinary answer", () => {
  test("of the guard", async () => {
    const answer = await talk.app.call("/talk/never", { token: talk.alice.token });
    expectRefusal(answer, 403, "forbidden");
    expect(await talk.event(answer.headers.get("x-proxy-gpt-request-id"))).toMatchObject({
      endpoint: "talk.never",
      status: 403,
      errorCode: "forbidden",
      userId: talk.alice.id,
    });
  });

  test.each<[what: string, thrown: unknown, status: number, code: string]>([
    ["a refusal", new ApiError("not_found"), 404, "not_found"],
    ["one that asks to wait", new ApiError("busy", { retryAfterSeconds: 7 }), 503, "busy"],
    ["a mistake", new Error("the secret of the house"), 500, "internal"],
    ["nothing", undefined, 500, "internal"],
  ])("of `open`, also where frames were queued: %s", async (_what, thrown, status, code) => {
    talk.onOpen = (viewer) => {
      viewer.send(message(1));
      throw thrown;
    };
    const before = talk.seats.length;
    const answer = await talk.app.call(PATH, { token: talk.alice.token });
    expectRefusal(answer, status, code);
    expect(answer.text).not.toContain("secret");
    expect(answer.headers.get("retry-after")).toBe(code === "busy" ? "7" : null);
    expect(await talk.event(answer.headers.get("x-proxy-gpt-request-id"))).toMatchObject({ status, errorCode: code });
    expect(talk.seats).toHaveLength(before);
  });
});

describe("on one connection", () => {
  const lines = (path: string) => request([`GET ${path} HTTP/1.1`, "Host: h", `Authorization: Bearer ${talk.alice.token}`]);

  test("a stream waits for the answer before it", async () => {
    const socket = await open(talk.app.url);
    const bytes = everything(socket);
    const seat = talk.seat();
    await write(socket, Buffer.concat([lines("/talk/plain"), lines(PATH)]));
    const { viewer } = await seat;
    viewer.send(message(1));
    viewer.end();
    const text = (await bytes).toString();
    expect(text.indexOf('{"caller":"')).toBeGreaterThan(0);
    expect(text.indexOf("text/event-stream")).toBeGreaterThan(text.indexOf('{"caller":"'));
    expect(text.endsWith(message(1).sse.toString())).toBe(true);
  });

  test("what comes behind a stream is not answered, and does not disturb it", async () => {
    const rows = await countEvents(talk.app);
    const taken = talk.seats.length;
    const socket = await open(talk.app.url);
    const bytes = everything(socket);
    const seat = talk.seat();
    await write(socket, Buffer.concat([lines(PATH), lines(PATH), lines("/talk/open")]));
    const { viewer } = await seat;
    await write(socket, "GARBAGE\r\n\r\n");
    viewer.send(message(1));
    viewer.send(message(2));
    viewer.end();
    const text = (await bytes).toString();
    expect(text.endsWith(message(1).sse.toString() + message(2).sse.toString())).toBe(true);
    expect(text.match(/HTTP\/1\.1/g)).toHaveLength(1);
    expect(talk.seats).toHaveLength(taken + 1);
    expect(await countEvents(talk.app)).toBe(rows + 1);
  });

  test("an offer to upgrade to something else is an ordinary request for a stream (`curl --http2`)", async () => {
    const socket = await open(talk.app.url);
    const bytes = everything(socket);
    const seat = talk.seat();
    const offer = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];
    await write(socket, request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${talk.alice.token}`, ...offer]));
    const { viewer, ...gone } = await seat;
    viewer.send(message(1));
    viewer.end();
    expect((await bytes).toString().endsWith(`\r\n\r\n${message(1).sse}`)).toBe(true);
    expect(gone.detached).toBe(0);
    await talk.empty();
  });
});

test("a stream that ends before it began has its head, what was sent, and its end", async () => {
  talk.onOpen = (viewer) => {
    viewer.send(message(1));
    viewer.end("lagged", message(2));
    expect(viewer.send(message(3))).toBe(false);
  };
  const watcher = await watch(url(), { headers: bearer(talk.alice) });
  expect([watcher.status, await watcher.over]).toEqual([200, "ended"]);
  expect(watcher.text()).toBe(`${message(1).sse}${message(2).sse}`);
  expect(await talk.event(watcher.id)).toMatchObject({ status: 200, errorCode: "lagged" });
  await talk.empty();
});

test("a crowd that opens and closes at once leaves every seat exactly once", async () => {
  const from = talk.seats.length;
  const crowd: Watcher[] = await Promise.all(
    Array.from({ length: 50 }, () => watch(url("/talk/stream?room=crowd2"), { headers: bearer(talk.alice) })),
  );
  for (const [i, watcher] of crowd.entries()) if (i % 2) watcher.leave();
  talk.seats.slice(from).forEach(({ viewer }) => {
    viewer.end();
  });
  await Promise.all(crowd.map(({ over }) => over));
  await talk.empty();
  expect(talk.seats.slice(from).map(({ detached }) => detached)).toEqual(Array(50).fill(1));
});
