import { once } from "node:events";
import { WebSocket as BrowserSocket } from "undici";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { WebSocket } from "ws";
import { ApiError } from "../../lib/http/error.ts";
import { Frame } from "../../lib/http/frame.ts";
import { countEvents, expectOurs, expectRefusal } from "../support/answers.ts";
import { answersIn, everything, open, request, write } from "../support/raw.ts";
import { until } from "../support/relay.ts";
import { bearer, converse, refused, startTalk, type Talk } from "./talk.ts";

const LISTED = "https://app.example.com";
const PATH = "/talk/stream";

let talk: Talk;
beforeAll(async () => {
  talk = await startTalk({ env: { ALLOWED_ORIGINS: LISTED } });
});
afterEach(() => talk.quiet());
afterAll(() => talk.close());

const url = (path = PATH) => talk.app.url + path;

async function joined(path = PATH, headers: Record<string, string> = {}) {
  const seat = talk.seat();
  const client = await converse(url(path), { ...bearer(talk.alice), ...headers });
  return { client, seat: await seat };
}

describe("frames", () => {
  test("are one text message each: the same object, with event and id in it", async () => {
    talk.onOpen = (viewer) => viewer.send(new Frame('{"first":true}', { id: "1-0" }));
    const { client, seat } = await joined();
    const { viewer } = seat;
    viewer.send(new Frame('{"message":{"reply":"grüße 🎉 \\n"},"partial":true}', { id: "2-0" }));
    viewer.send(new Frame('{"by":"anna"}', { event: "stopped", id: "3-0" }));
    viewer.send(new Frame("{}", { event: "reset" }));
    viewer.send(new Frame("{}", { id: "4-0" }));
    viewer.send(new Frame("{}"));
    viewer.end(null, new Frame('{"last":1}'));
    expect(await client.closed).toBe(1000);
    expect(client.heard).toEqual([
      '{"id":"1-0","first":true}',
      '{"id":"2-0","message":{"reply":"grüße 🎉 \\n"},"partial":true}',
      '{"event":"stopped","id":"3-0","by":"anna"}',
      '{"event":"reset"}',
      '{"id":"4-0"}',
      "{}",
      '{"last":1}',
    ]);
  });

  test("are whole at every length at which their header changes, and in any number a turn", async () => {
    const { client, seat } = await joined();
    const texts = [0, 1, 113, 114, 115, 65_523, 65_524, 65_525, 300_000].map((length) =>
      JSON.stringify({ x: "ü".repeat(length / 2), y: "y".repeat(length % 2) }),
    );
    const many = Array.from({ length: 2_000 }, (_, n) => `{"n":${n}}`);
    for (const text of [...texts, ...many]) {
      if (seat.viewer.send(new Frame(text))) continue;
      await new Promise<void>((resolve) => {
        seat.viewer.onDrain = resolve;
      });
    }
    seat.viewer.end();
    await client.closed;
    expect(client.heard.length).toBe(texts.length + many.length);
    expect(client.heard.every((text, i) => text === [...texts, ...many][i])).toBe(true);
  });

  test("come to a browser's WebSocket too", async () => {
    const seat = talk.seat();
    const socket = new BrowserSocket(`${url().replace("http", "ws")}?token=${talk.alice.token}&after=7-0`);
    const heard: unknown[] = [];
    socket.addEventListener("message", ({ data }) => heard.push(data));
    const closed = once(socket as never, "close");
    const { viewer } = await seat;
    expect(viewer.lastEventId).toBe("7-0");
    viewer.send(new Frame('{"n":1}', { id: "8-0" }));
    viewer.end();
    const [event] = (await closed) as [CloseEvent];
    expect([heard, event.code, event.wasClean]).toEqual([['{"id":"8-0","n":1}'], 1000, true]);
  });
});

describe("the handshake", () => {
  const key = "dGhlIHNhbXBsZSBub25jZQ==";
  const shake = (lines: string[], method = "GET", path = PATH) =>
    request([
      `${method} ${path} HTTP/1.1`,
      "Host: h",
      `Authorization: Bearer ${talk.alice.token}`,
      "Connection: Upgrade",
      "Upgrade: websocket",
      ...lines,
    ]);
  /** What comes back on a raw connection until the server ends it. */
  async function raw(...args: Parameters<typeof shake>) {
    const socket = await open(talk.app.url);
    const bytes = everything(socket);
    await write(socket, shake(...args));
    const [answer] = answersIn(await bytes, args[1]);
    return answer as NonNullable<typeof answer>;
  }

  test("is answered with our headers, and without compression", async () => {
    const { client, seat } = await joined(PATH, { origin: LISTED, "sec-websocket-extensions": "permessage-deflate" });
    expect(client.answer.statusCode).toBe(101);
    expect(client.answer.headers).not.toHaveProperty("sec-websocket-extensions");
    const headers = client.answer.headers as Record<string, string>;
    expectOurs({ status: 101, headers, text: "", json: null }, LISTED);
    seat.viewer.end();
    await client.closed;
  });

  test("in another version, or without its key, or by POST, is refused", async () => {
    const seats = talk.seats.length;
    for (const version of ["7", "8", "14", "thirteen"]) {
      const answer = await raw([`Sec-WebSocket-Version: ${version}`, `Sec-WebSocket-Key: ${key}`]);
      expectRefusal(answer, 426, "upgrade_required");
      expect(answer.headers["sec-websocket-version"]).toBe("13");
    }
    expectRefusal(await raw(["Sec-WebSocket-Version: 13"]), 400, "bad_request");
    expectRefusal(await raw(["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"]), 400, "bad_request");
    const whole = ["Sec-WebSocket-Version: 13", `Sec-WebSocket-Key: ${key}`];
    expectRefusal(await raw([...whole, "Content-Length: 0"], "POST"), 400, "bad_request");
    expect(await raw(whole, "HEAD")).toMatchObject({ status: 400, text: "" });
    expect(talk.seats).toHaveLength(seats);
  });

  test("with protocols that are odd is made without one", async () => {
    for (const offered of [`openai-insecure-api-key.${talk.alice.token}`, "a b, c", "", ","]) {
      const socket = await open(talk.app.url);
      const seat = talk.seat();
      const head = once(socket, "data");
      await write(
        socket,
        shake(["Sec-WebSocket-Version: 13", `Sec-WebSocket-Key: ${key}`, `Sec-WebSocket-Protocol: ${offered}`]),
      );
      const text = String((await head)[0]);
      expect(text).toMatch(/^HTTP\/1\.1 101 /);
      expect(text.toLowerCase()).not.toContain("sec-websocket-protocol");
      await seat;
      socket.destroy();
    }
    await talk.empty();
  });

  test("is refused as an ordinary request would be, by an ordinary answer", async () => {
    const alice = bearer(talk.alice);
    expectRefusal(await refused(url()), 401, "unauthenticated");
    expectRefusal(await refused(url("/talk/never"), alice), 403, "forbidden");
    expectRefusal(await refused(url(`${PATH}?room=${"x".repeat(65)}`), alice), 400, "invalid_input");
    expectRefusal(await refused(url("/talk/post"), alice), 405, "method_not_allowed");
    expectRefusal(await refused(url("/talk/nowhere"), alice), 404, "not_found");
    expect((await refused(url("/talk/plain"), alice).catch((error) => error)).status).toBe(200);
    talk.onOpen = (viewer) => {
      viewer.send(new Frame("{}"));
      throw new ApiError("busy", { retryAfterSeconds: 9 });
    };
    const busy = await refused(url(), alice);
    expectRefusal(busy, 503, "busy");
    expect(busy.headers["retry-after"]).toBe("9");
    const id = busy.headers["x-proxy-gpt-request-id"];
    expect(await talk.event(id)).toMatchObject({ endpoint: "talk.stream", status: 503, errorCode: "busy" });
  });

  test("by a page of another origin is refused, whatever it knows, and costs no row", async () => {
    const rows = await countEvents(talk.app);
    const knows = [bearer(talk.alice), { cookie: `sess=${talk.alice.token}` }, {}];
    for (const origin of ["https://evil.example", "null", "http://app.example.com", `${LISTED}.evil.example`]) {
      for (const headers of knows) expectRefusal(await refused(url(), { ...headers, origin }), 403, "origin_refused");
      expectRefusal(await refused(url(`${PATH}?token=${talk.alice.token}`), { origin }), 403, "origin_refused");
      expectRefusal(await refused(url("/talk/open"), { origin }), 403, "origin_refused");
    }
    expectRefusal(await refused(url(), { ...bearer(talk.alice), "sec-fetch-site": "cross-site" }), 403, "origin_refused");
    const ticket = await talk.ticket();
    expectRefusal(await refused(url(`${PATH}?ticket=${ticket}`), { origin: "https://evil.example" }), 403);
    expect(await countEvents(talk.app)).toBe(rows + 1);
    // The ticket was not used up by it, and a page of ours may use it.
    for (const headers of [{ origin: LISTED }, { "sec-fetch-site": "same-origin", origin: "https://here.example" }]) {
      const path =
        "origin" in headers && headers.origin === LISTED ? `${PATH}?ticket=${ticket}` : `${PATH}?token=${talk.alice.token}`;
      const { socket, closed } = await converse(url(path), headers as Record<string, string>);
      socket.close();
      await closed;
    }
  });

  test("may be followed at once by what the client says", async () => {
    const resumed: string[] = [];
    talk.onOpen = (viewer) => {
      viewer.onResume = (id) => {
        resumed.push(id);
        viewer.end();
      };
    };
    const socket = await open(talk.app.url);
    let heard = "";
    socket.on("data", (chunk) => {
      heard += chunk.toString("latin1");
    });
    const text = Buffer.from('{"resume":"5-5"}');
    const frame = Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), text]);
    await write(socket, Buffer.concat([shake(["Sec-WebSocket-Version: 13", `Sec-WebSocket-Key: ${key}`]), frame]));
    // The close frame 1000 is all that comes behind the head.
    await until(() => heard.includes("\x88"));
    expect(heard.split("\r\n\r\n")[1]).toBe("\x88\x02\x03\xe8");
    expect(resumed).toEqual(["5-5"]);
    socket.destroy();
  });
});

function sendInParts(socket: WebSocket, part: string): void {
  socket.send(part, { fin: false });
  socket.send(part, { fin: true });
}

describe("what a client says", () => {
  test("is where it wants to go on from; what else it says in JSON is not minded", async () => {
    const { client, seat } = await joined();
    const resumed: string[] = [];
    seat.viewer.onResume = (id) => resumed.push(id);
    const long = "x".repeat(256);
    for (const said of [
      '{"resume":"1-0"}',
      '{"resume":7}',
      '{"resume":""}',
      `{"resume":"${long}x"}`,
      "{}",
      "[]",
      "null",
      "5",
      '"x"',
      '{"a":{"resume":"2-0"}}',
      `{"resume":"${long}"}`,
      '{"resume":"grüße"}',
    ])
      client.socket.send(said);
    client.socket.ping("are you there");
    const [pong] = (await once(client.socket, "pong")) as [Buffer];
    expect(pong.toString()).toBe("are you there");
    expect(resumed).toEqual(["1-0", long, "grüße"]);
    seat.viewer.onResume = null;
    client.socket.send('{"resume":"3-0"}');
    seat.viewer.send(new Frame('{"still":"here"}'));
    await client.hears((heard) => heard.includes('{"still":"here"}'));
    client.socket.close();
    await client.closed;
  });

  test.each<[what: string, say: (socket: WebSocket) => void, code: number]>([
    ["not JSON", (socket) => socket.send("hello"), 1007],
    ["half of JSON", (socket) => socket.send('{"resume":'), 1007],
    ["nothing", (socket) => socket.send(""), 1007],
    ["binary", (socket) => socket.send(Buffer.from('{"resume":"1-0"}')), 1003],
    ["too much", (socket) => socket.send(JSON.stringify({ x: "x".repeat(65_536) })), 1009],
    ["too much in parts", (socket) => sendInParts(socket, "x".repeat(40_000)), 1009],
    ["not UTF-8", (socket) => socket.send(Buffer.from([0x22, 0xff, 0x22]), { binary: false }), 1007],
    ["something that is no frame", (socket) => Reflect.get(socket, "_socket").write(Buffer.from([0x83, 0x80, 0, 0, 0, 0])), 1002],
    ["what is not masked", (socket) => Reflect.get(socket, "_socket").write(Buffer.from([0x81, 0x02, 0x7b, 0x7d])), 1002],
  ])("that is %s ends the stream, and the code says why", async (_what, say, code) => {
    const { client, seat } = await joined();
    say(client.socket);
    expect(await client.closed).toBe(code);
    expect(await talk.event(client.id)).toMatchObject({ status: 101, errorCode: "bad_message" });
    expect([seat.detached, seat.viewer.closed, seat.viewer.send(new Frame("{}"))]).toEqual([1, true, false]);
  });
});

describe("the end", () => {
  test.each([
    [null, 1000],
    ["session_ended", 1008],
    ["not_found", 1008],
    ["store_unavailable", 1011],
  ])("for the reason %s has the code %i, behind what was sent", async (reason, code) => {
    const { client, seat } = await joined();
    for (let n = 0; n < 100; n++) seat.viewer.send(new Frame(`{"n":${n}}`));
    seat.viewer.end(reason, new Frame("{}", { event: "last" }));
    expect(await client.closed).toBe(code);
    expect([client.heard.length, client.heard.at(-1)]).toEqual([101, '{"event":"last"}']);
    expect(await talk.event(client.id)).toMatchObject({ method: "GET", path: PATH, status: 101, errorCode: reason });
    expect(seat.detached).toBe(1);
  });

  test.each<[how: string, leave: (socket: WebSocket) => void]>([
    ["closes", (socket) => socket.close()],
    ["closes with a reason", (socket) => socket.close(4000, "enough")],
    ["breaks off", (socket) => socket.terminate()],
    ["resets the connection", (socket) => Reflect.get(socket, "_socket").resetAndDestroy()],
  ])("when the client %s is no error", async (_how, leave) => {
    const { client, seat } = await joined();
    leave(client.socket);
    await talk.empty();
    expect(await talk.event(client.id)).toMatchObject({ status: 101, errorCode: null, durationMs: expect.any(Number) });
    expect([seat.detached, seat.viewer.send(new Frame("{}"))]).toEqual([1, false]);
    expect(talk.app.lines.at(-1)).toMatchObject({ message: `GET ${PATH} 101`, endpoint: "talk.stream", status: 101 });
  });

  test("by the client's close frame is the last that is sent, also while it leaves the connection open", async () => {
    const seat = talk.seat();
    const socket = await open(talk.app.url);
    let heard = "";
    socket.on("data", (chunk) => {
      heard += chunk.toString("latin1");
    });
    const ended = once(socket, "end");
    const lines = [
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    await write(socket, request([`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${talk.alice.token}`, ...lines]));
    const { viewer } = await seat;
    await write(socket, Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).toString("latin1"));
    await ended;
    for (let n = 0; n < 3; n++) viewer.send(new Frame(`{"n":${n}}`));
    viewer.end(null, new Frame('{"last":1}'));
    const [head = "", frames] = heard.split("\r\n\r\n");
    expect(frames).toBe("\x88\x02\x03\xe8");
    const id = /x-proxy-gpt-request-id: (\S+)/.exec(head)?.[1];
    expect(await talk.event(id)).toMatchObject({ status: 101, errorCode: null });
    socket.destroy();
  });

  test("may come before the beginning", async () => {
    talk.onOpen = (viewer) => viewer.end("access_ended", new Frame('{"n":1}'));
    const { closed, heard, id } = await converse(url(), bearer(talk.alice));
    expect([await closed, heard]).toEqual([1008, ['{"n":1}']]);
    expect(await talk.event(id)).toMatchObject({ status: 101, errorCode: "access_ended" });
    await talk.empty();
  });

  test("does not wait for a client that says nothing to it", async () => {
    const { client, seat } = await joined();
    client.socket.pause();
    seat.viewer.end();
    expect(await talk.event(client.id)).toMatchObject({ status: 101 });
    client.socket.terminate();
  });
});
