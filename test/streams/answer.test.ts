import { once } from "node:events";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { ApiError } from "../../lib/http/error.ts";
import { Frame } from "../../lib/http/frame.ts";
import { prefersEvents } from "../../lib/http/sse.ts";
import type { Viewer } from "../../lib/http/viewer.ts";
import { expectOurs, expectRefusal, signInAgain } from "../support/answers.ts";
import { everything, open, request, write } from "../support/raw.ts";
import { until } from "../support/relay.ts";
import { bearer, startTalk, type Talk, watch } from "./talk.ts";

const PATH = "/talk/answer";
const EVENTS = { accept: "text/event-stream" };

let talk: Talk;
beforeAll(async () => {
  talk = await startTalk({ limits: { heartbeatMs: 20, stalledMs: 100, rotateMs: 1, rotateBytes: 10 }, authorizeEveryMs: 40 });
});
afterEach(() => talk.quiet());
afterAll(() => talk.close());

const asked = (accept?: string, token = talk.alice.token) =>
  talk.app.call(PATH, { token, body: {}, headers: accept === undefined ? {} : { accept } });
const url = () => talk.app.url + PATH;
const post = () => ({ method: "POST", headers: { ...bearer(talk.alice), ...EVENTS } });

test.each<[accept: string | undefined, prefers: boolean]>([
  [undefined, false],
  ["*/*", false],
  ["application/json", false],
  ["text/event-stream", true],
  ["TEXT/Event-Stream", true],
  ["text/event-stream; charset=utf-8", true],
  ["application/json, text/event-stream", false],
  ["text/event-stream, */*;q=0.1", true],
  ["text/event-stream, application/json;q=0.9", true],
  ["text/event-stream;q=0.4, application/json;q=0.5", false],
  ["text/event-stream;q=0", false],
  ["application/json;q=0, text/event-stream;q=0.001", true],
  ["text/*", false],
  ["text/event-streams", false],
])("Accept: %s prefers events: %s", async (accept, prefers) => {
  expect(prefersEvents(accept)).toBe(prefers);
});

describe("an answer to a client that prefers events", () => {
  test("comes as frames, byte for byte, and ends where the handler ends", async () => {
    talk.onAnswer = ({ stream, sessionCookie }) => {
      sessionCookie("cookie", 5);
      stream?.send(new Frame('{"message":{"reply":""},"partial":true}', { id: "1-0" }));
      stream?.send(new Frame('{"choices":[]}'));
      stream?.send(new Frame("[DONE]"));
      return "all of it";
    };
    const socket = await open(talk.app.url);
    const bytes = everything(socket);
    const lines = [`POST ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${talk.alice.token}`, "Accept: text/event-stream"];
    await write(socket, request([...lines, "Content-Length: 0"]));
    const [head = "", ...rest] = (await bytes).toString().split("\r\n\r\n");
    // In chunks, so that an answer that was cut is told from one that has ended.
    const body = rest.join("\r\n\r\n");
    expect(body.endsWith("\r\n0") || body.endsWith("\r\n0\r\n\r\n")).toBe(true);
    expect(unchunked(body)).toBe(
      'id: 1-0\ndata: {"message":{"reply":""},"partial":true}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n',
    );
    const pairs = head
      .split("\r\n")
      .slice(1)
      .map((line) => line.split(": ") as [string, string]);
    const headers = Object.fromEntries(pairs.map(([name, value]) => [name.toLowerCase(), value]));
    expectOurs({ status: 200, headers, text: "", json: null });
    expect(headers).toMatchObject({ "content-type": "text/event-stream", connection: "close", "x-accel-buffering": "no" });
    expect(headers["set-cookie"]).toMatch(/^sess=cookie;/);
    expect(headers["transfer-encoding"]).toBe("chunked");
    expect(headers).not.toHaveProperty("x-hono-already-sent");
    // What the log keeps is the answer that a client without a preference gets.
    const event = await talk.event(headers["x-proxy-gpt-request-id"]);
    expect(event).toMatchObject({ status: 200, errorCode: null, requestBody: "{}", responseBody: '{"said":"all of it"}' });
  });

  test("is JSON where the handler sent nothing, and for a client without that preference", async () => {
    const seen: (Viewer | null)[] = [];
    talk.onAnswer = ({ stream }) => void seen.push(stream);
    for (const accept of [undefined, "*/*", "application/json, text/event-stream", "text/event-stream"]) {
      const answer = await asked(accept);
      expect(answer).toMatchObject({ status: 200, json: { said: "done" } });
      expect(answer.headers.get("content-type")).toBe("application/json");
    }
    expect(seen.map((it) => it === null)).toEqual([true, true, true, false]);
    expect(seen[3]).toMatchObject({ closed: true });
  });

  test("is a refusal as ever before the first frame, and the last frame after it", async () => {
    const refuse = (thrown: unknown, frames: number) => {
      talk.onAnswer = ({ stream }) => {
        for (let n = 0; n < frames; n++) stream?.send(new Frame(`{"n":${n}}`));
        throw thrown;
      };
    };
    for (const [thrown, status, code] of [
      [new ApiError("upstream_unreachable"), 502, "upstream_unreachable"],
      [new Error("the secret of the house"), 500, "internal"],
    ] as const) {
      refuse(thrown, 0);
      expectRefusal(await asked("text/event-stream"), status, code);
      refuse(thrown, 2);
      const watcher = await watch(url(), post());
      expect([watcher.status, await watcher.over]).toEqual([200, "ended"]);
      const [first, second, last = "", end] = watcher.text().split("\n\n");
      expect([first, second, end]).toEqual(['data: {"n":0}', 'data: {"n":1}', ""]);
      const [name, data = ""] = last.split("\ndata: ");
      expect(name).toBe("event: failed");
      expect(JSON.parse(data)).toMatchObject({ error: { code, source: "gateway", request_id: watcher.id } });
      expect(data).not.toContain("secret");
      expect(await talk.event(watcher.id)).toMatchObject({ status, errorCode: code, responseBody: data });
    }
  });

  test("shows signs of life that no parser minds, and is never told to come again", async () => {
    let end = () => {};
    talk.onAnswer = async ({ stream }) => {
      stream?.send(new Frame(`{"long":"${"x".repeat(1_000)}"}`));
      await new Promise<void>((resolve) => {
        end = resolve;
      });
      stream?.send(new Frame('{"last":1}'));
    };
    const watcher = await watch(url(), post());
    await watcher.until((text) => text.split(": ping\n\n").length > 4);
    end();
    await watcher.over;
    expect(watcher.text().replaceAll(": ping\n\n", "")).toBe(`data: {"long":"${"x".repeat(1_000)}"}\n\ndata: {"last":1}\n\n`);
  });

  test("that nobody waits for any more is finished all the same", async () => {
    for (const how of ["before", "after"] as const) {
      let closes = 0;
      let stream: Viewer | null = null;
      let goOn = () => {};
      talk.onAnswer = async (reply) => {
        stream = reply.stream as Viewer;
        stream.onClose = () => void closes++;
        if (how === "after") stream.send(new Frame('{"n":0}'));
        await new Promise<void>((resolve) => {
          goOn = resolve;
        });
        expect([stream.closed, stream.send(new Frame('{"n":1}'))]).toEqual([true, false]);
        return "finished";
      };
      const socket = await open(talk.app.url);
      const lines = [
        `POST ${PATH} HTTP/1.1`,
        "Host: h",
        `Authorization: Bearer ${talk.alice.token}`,
        "Accept: text/event-stream",
      ];
      await write(socket, request([...lines, "Content-Length: 0"]));
      await until(() => stream !== null);
      if (how === "after") await once(socket, "data");
      socket.destroy();
      await until(() => closes === 1);
      const told = talk.app.lines.length;
      goOn();
      await until(() => talk.app.lines.length > told);
      const line = talk.app.lines.at(-1);
      expect(line).toMatchObject({ message: `POST ${PATH} 200` });
      expect(await talk.event(String(line?.requestId))).toMatchObject({ status: 200, responseBody: '{"said":"finished"}' });
      expect(closes).toBe(1);
    }
  });

  test("is not held in memory for a client that does not read it", async () => {
    let refusals = 0;
    talk.onAnswer = async ({ stream }) => {
      const frame = new Frame(JSON.stringify({ pad: "x".repeat(4_000) }));
      while (stream && !stream.closed) {
        if (!stream.send(frame)) refusals++;
        await new Promise((resolve) => setImmediate(resolve));
      }
      return "unread";
    };
    const socket = await open(talk.app.url);
    const lines = [`POST ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${talk.alice.token}`, "Accept: text/event-stream"];
    await write(socket, request([...lines, "Content-Length: 0"]));
    const told = talk.app.lines.length;
    await until(() => talk.app.lines.length > told);
    expect(refusals).toBeGreaterThan(0);
    expect(talk.app.lines.at(-1)).toMatchObject({ message: `POST ${PATH} 200` });
    socket.destroy();
  });

  test("stops when the session ends, while the handler goes on", async () => {
    const again = await signInAgain(talk.app, talk.alice);
    let goOn = () => {};
    talk.onAnswer = async ({ stream }) => {
      stream?.send(new Frame('{"n":0}'));
      await new Promise<void>((resolve) => {
        goOn = resolve;
      });
      expect(stream?.send(new Frame('{"n":1}'))).toBe(false);
    };
    const watcher = await watch(url(), { method: "POST", headers: { ...bearer(again), ...EVENTS } });
    await talk.app.call("/user/logout", { token: again.token, body: {} });
    expect(await watcher.over).toBe("cut");
    expect(watcher.text().replaceAll(": ping\n\n", "")).toBe('data: {"n":0}\n\n');
    goOn();
    expect(await talk.event(watcher.id)).toMatchObject({ status: 200 });
  });

  test("waits for the answer before it on its connection", async () => {
    talk.onAnswer = ({ stream }) => stream?.send(new Frame('{"second":true}'));
    const socket = await open(talk.app.url);
    const bytes = everything(socket);
    const auth = ["Host: h", `Authorization: Bearer ${talk.alice.token}`];
    const plain = request(["GET /talk/plain HTTP/1.1", ...auth]);
    const streamed = request([`POST ${PATH} HTTP/1.1`, ...auth, "Accept: text/event-stream", "Content-Length: 0"]);
    await write(socket, Buffer.concat([plain, streamed]));
    const text = (await bytes).toString();
    expect(text.indexOf('{"caller":"')).toBeGreaterThan(0);
    const body = text.slice(text.lastIndexOf("\r\n\r\n", text.indexOf("second")) + 4);
    expect(unchunked(body)).toBe('data: {"second":true}\n\n');
  });
});

/** The bytes of chunks, each with its length before it. */
function unchunked(body: string): string {
  const bytes = Buffer.from(body);
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const line = bytes.indexOf("\r\n", at);
    const length = Number.parseInt(bytes.toString("latin1", at, line < 0 ? bytes.length : line), 16);
    if (length === 0 || line < 0) break;
    text += bytes.toString("utf8", line + 2, line + 2 + length);
    at = line + 2 + length + 2;
  }
  return text;
}
