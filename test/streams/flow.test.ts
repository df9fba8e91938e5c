import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { user } from "../../functions/user/endpoints.ts";
import { readConfig } from "../../lib/config.ts";
import { createDeps } from "../../lib/deps.ts";
import { Frame } from "../../lib/http/frame.ts";
import { createListener, listen } from "../../lib/http/listen.ts";
import type { Viewer } from "../../lib/http/viewer.ts";
import { search } from "../../lib/repo/events.ts";
import { openSqlite } from "../../lib/store/sqlite.ts";
import { KEY, PASSWORD } from "../support/app.ts";
import { openSockets, settled, until } from "../support/relay.ts";
import { bearer, converse, stalling, startTalk, type Talk, talkFunction, watch } from "./talk.ts";

const PATH = "/talk/stream";
const QUEUE_BYTES = 262_144;
const KEY_HEADERS = [
  "Connection: Upgrade",
  "Upgrade: websocket",
  "Sec-WebSocket-Version: 13",
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

let talk: Talk;
/** The server's ends of all connections, in the order in which they were made. */
const ends: Socket[] = [];
const onConnection = (message: unknown) => void ends.push((message as { socket: Socket }).socket);
beforeAll(async () => {
  talk = await startTalk();
  subscribe("net.server.socket", onConnection);
});
afterEach(() => talk.quiet());
afterAll(async () => {
  unsubscribe("net.server.socket", onConnection);
  await talk.close();
});

const url = (path = PATH, on = talk) => on.app.url + path;
const big = (n: number) => new Frame(JSON.stringify({ n, pad: "x".repeat(4_000) }), { id: `${n}` });
const transports = [
  ["server-sent events", []],
  ["WebSocket", KEY_HEADERS],
] as const;

/** Sends frames to a viewer until the connection is full; answers how many were taken. */
async function fill(viewer: Viewer, from = 0): Promise<number> {
  for (let n = from; ; n++) {
    if (!viewer.send(big(n))) return n + 1;
    // What the kernel takes is taken between turns too.
    if (n % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
}

describe.each(transports)("a viewer by %s who does not read", (_name, lines) => {
  test("costs a bounded queue, loses nothing that was taken, and disturbs nobody else", async () => {
    const other = talk.seat();
    const watcher = await watch(url(), { headers: bearer(talk.alice) });
    const { viewer: reads } = await other;
    const seat = talk.seat();
    const stalled = await stalling(talk.app.url, PATH, bearer(talk.alice), [...lines]);
    const { viewer } = await seat;
    const end = ends.at(-1) as Socket;
    let drained = 0;
    viewer.onDrain = () => void drained++;

    const taken = await fill(viewer);
    expect(viewer.closed).toBe(false);
    expect(end.writableLength).toBeGreaterThan(65_536);
    expect(end.writableLength).toBeLessThan(QUEUE_BYTES);
    const queued = end.writableLength;
    for (let n = 0; n < 5_000; n++) expect(viewer.send(big(n))).toBe(false);
    expect([end.writableLength, drained]).toEqual([queued, 0]);
    for (let n = 0; n < 20; n++) {
      expect(reads.send(big(n))).toBe(true);
      await watcher.until(`{"n":${n},`);
    }

    let bytes = 0;
    let text = "";
    stalled.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      text = (text + chunk.toString("latin1")).slice(-20_000);
    });
    await until(() => drained === 1);
    // What was refused meanwhile is nobody's but the sender's to send again.
    for (let n = taken; n < taken + 3; n++) expect(viewer.send(big(n))).toBe(true);
    await until(() => text.includes(`{"n":${taken + 2}`) || text.includes(`"n":${taken + 2},`));
    expect(bytes).toBeGreaterThan(taken * 4_000);
    expect([...text.matchAll(/"n":(\d+)/g)].map(([, n]) => Number(n))).toEqual(
      [taken - 1, taken, taken + 1, taken + 2].slice(-4),
    );
    expect(drained).toBe(1);
    stalled.destroy();
    watcher.leave();
    await talk.empty();
  });

  test("gets what was sent before the answer began, as far as it has room, and is told when there is more", async () => {
    let taken = 0;
    let drained = 0;
    talk.onOpen = async (viewer) => {
      viewer.onDrain = () => void drained++;
      taken = await fill(viewer);
      expect(viewer.send(big(0))).toBe(false);
    };
    const seat = talk.seat();
    const socket = await stalling(talk.app.url, PATH, bearer(talk.alice), [...lines]);
    await seat;
    expect(taken).toBeLessThan(20);
    let heard = "";
    socket.on("data", (chunk: Buffer) => {
      heard += chunk.toString("latin1");
    });
    await until(() => heard.includes(`"n":${taken - 1}`) && drained === 1);
    expect([...heard.matchAll(/"n":(\d+)/g)].map(([, n]) => Number(n))).toEqual(Array.from({ length: taken }, (_, n) => n));
    socket.destroy();
    await talk.empty();
  });
});

describe("one that lasts", () => {
  test.each(transports)(
    "is ended by %s when it reads nothing for too long, and hears no sign of life meanwhile",
    async (_name, lines) => {
      const impatient = await startTalk({ limits: { heartbeatMs: 100, stalledMs: 150 } });
      const seat = impatient.seat();
      const socket = await stalling(impatient.app.url, PATH, bearer(impatient.alice), [...lines]);
      const head = String(socket.read() ?? "");
      const id = /x-proxy-gpt-request-id: (\S+)/.exec(head)?.[1];
      const { viewer } = await seat;
      const end = ends.at(-1) as Socket;
      await fill(viewer);
      const queued = end.writableLength;
      while (!viewer.closed) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        if (!viewer.closed) expect(end.writableLength).toBeLessThanOrEqual(queued);
      }
      expect(end.destroyed).toBe(true);
      expect(await impatient.event(id)).toMatchObject({ errorCode: "stalled", status: lines.length > 0 ? 101 : 200 });
      socket.destroy();
      await impatient.empty();
      await impatient.close();
    },
  );

  test("hears that the stream is alive, as a named event and a message of its own", async () => {
    const lively = await startTalk({ limits: { heartbeatMs: 20 } });
    const sse = await watch(url(PATH, lively), { headers: bearer(lively.alice) });
    const ws = await converse(url(PATH, lively), bearer(lively.alice));
    let pings = 0;
    ws.socket.on("ping", () => void pings++);
    await sse.until((text) => text.split("event: ping\ndata: {}\n\n").length > 4);
    await ws.hears((heard) => heard.length > 5 && pings > 5);
    expect(sse.text().replaceAll("event: ping\ndata: {}\n\n", "")).toBe("");
    expect(new Set(ws.heard)).toEqual(new Set(['{"event":"ping"}']));
    // Whoever answers is kept, and so is whoever need not.
    expect(lively.seats.map(({ viewer }) => viewer.closed)).toEqual([false, false]);
    sse.leave();
    ws.socket.terminate();
    await lively.empty();
    await lively.close();
  });

  test("but has gone without saying so is found out by the pings it leaves unanswered", async () => {
    const lively = await startTalk({ limits: { heartbeatMs: 40 } });
    const socket = new WebSocket(url(PATH, lively).replace("http", "ws"), { headers: bearer(lively.alice), autoPong: false });
    let pings = 0;
    socket.on("ping", () => void pings++);
    const [{ headers }] = (await once(socket, "upgrade")) as [{ headers: Record<string, string> }];
    const [code] = (await once(socket, "close")) as [number];
    expect([code, pings]).toEqual([1006, 2]);
    expect(await lively.event(headers["x-proxy-gpt-request-id"])).toMatchObject({ status: 101, errorCode: "unreachable" });
    await lively.close();
  });

  test("is sent away in time to come again, which is no error", async () => {
    const brief = await startTalk({ limits: { heartbeatMs: 20, rotateMs: 60 } });
    const sse = await watch(url(PATH, brief), { headers: bearer(brief.alice) });
    const ws = await converse(url(PATH, brief), bearer(brief.alice));
    expect([await sse.over, await ws.closed]).toEqual(["ended", 1001]);
    expect(sse.text().endsWith("event: rotate\ndata: {}\n\n")).toBe(true);
    expect(ws.heard.at(-1)).toBe('{"event":"rotate"}');
    expect(await brief.event(sse.id)).toMatchObject({ status: 200, errorCode: null });
    expect(await brief.event(ws.id)).toMatchObject({ status: 101, errorCode: null });
    expect(brief.seats.map(({ detached }) => detached)).toEqual([1, 1]);
    await brief.close();
  });

  test("is sent away before an answer is too long for the platform", async () => {
    const brief = await startTalk({ limits: { rotateBytes: 100_000 } });
    for (const transport of ["sse", "ws"] as const) {
      const seat = brief.seat();
      const over =
        transport === "sse"
          ? watch(url(PATH, brief), { headers: bearer(brief.alice) }).then(async (it) => [await it.over, it.text()] as const)
          : converse(url(PATH, brief), bearer(brief.alice)).then(async (it) => [await it.closed, it.heard.join("\n\n")] as const);
      const { viewer } = await seat;
      let sent = 0;
      while (!viewer.closed) {
        if (viewer.send(big(sent))) sent++;
        await new Promise((resolve) => setImmediate(resolve));
      }
      const [how, text] = await over;
      expect(how).toBe(transport === "sse" ? "ended" : 1001);
      expect(text.length).toBeGreaterThan(100_000);
      expect(text.length).toBeLessThan(112_000);
      expect(text.trimEnd().split("\n\n").at(-1)).toBe(transport === "sse" ? "event: rotate\ndata: {}" : '{"event":"rotate"}');
      expect([...text.matchAll(/"n":(\d+)/g)].map(([, n]) => Number(n))).toEqual(Array.from({ length: sent }, (_, n) => n));
    }
    await brief.close();
  });
});

describe("an instance that is told to stop", () => {
  async function startServer() {
    const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-streams-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const file = join(folder, "proxy.db");
    const deps = await createDeps(readConfig({ API_KEY: KEY, DB_ADDRESS: `file:${file}` }), { log: () => {} });
    await deps.store.migrate();
    const hub = { seats: [] as Talk["seats"], onOpen: (_: Viewer): unknown => undefined, onDetach: () => {}, onAnswer: () => {} };
    const listener = createListener([user, talkFunction(hub)], deps);
    const server = await listen(listener, { port: 0, address: "127.0.0.1" });
    const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const body = new URLSearchParams({ username: "alice", password: PASSWORD });
    const { token } = (await (await fetch(`${address}/user/signup`, { method: "POST", body })).json()) as { token: string };
    const events = async () => {
      const store = openSqlite(file);
      const found = await search(store, { endpoint: "talk.stream", limit: 100 });
      await store.close();
      return found.map(({ status, errorCode }) => `${status} ${errorCode}`).sort();
    };
    return {
      hub,
      url: address + PATH,
      headers: { authorization: `Bearer ${token}` },
      events,
      drain: () => listener.drain(server),
    };
  }

  test("sends its viewers to another one at once, and completes their events", async () => {
    const { hub, url, headers, events, drain } = await startServer();
    const sse = await Promise.all(Array.from({ length: 20 }, () => watch(url, { headers })));
    const ws = await Promise.all(Array.from({ length: 20 }, () => converse(url, headers)));
    await drain();
    expect(await Promise.all(sse.map(({ over }) => over))).toEqual(Array(20).fill("ended"));
    expect(new Set(sse.map((it) => it.text()))).toEqual(new Set(["event: rotate\ndata: {}\n\n"]));
    expect(await Promise.all(ws.map(({ closed }) => closed))).toEqual(Array(20).fill(1001));
    expect(new Set(ws.flatMap(({ heard }) => heard))).toEqual(new Set(['{"event":"rotate"}']));
    expect(hub.seats.map(({ detached }) => detached)).toEqual(Array(40).fill(1));
    expect(await events()).toEqual([...Array(20).fill("101 null"), ...Array(20).fill("200 null")]);
  });

  test("does not cut what is still being read, of a stream or of an ordinary answer", async () => {
    const { hub, url, headers, drain } = await startServer();
    hub.onAnswer = () => "x".repeat(8_000_000);
    const stalled = await stalling(new URL(url).origin, PATH, headers);
    await until(() => hub.seats.length === 1);
    const taken = await fill((hub.seats[0] as Talk["seats"][number]).viewer);
    const answer = await stalling(new URL(url).origin, "/talk/answer", headers, ["Content-Length: 0"], "POST");
    const drained = drain();
    // Longer than idle connections are left alone.
    await new Promise((resolve) => setTimeout(resolve, 300));
    let streamed = "";
    let answered = 0;
    stalled.on("data", (chunk: Buffer) => {
      streamed = (streamed + chunk.toString("latin1")).slice(-10_000);
    });
    answer.on("data", (chunk: Buffer) => {
      answered += chunk.length;
    });
    await Promise.all([once(stalled, "end"), once(answer, "end"), drained]);
    expect(streamed.endsWith(`"}\n\nevent: rotate\ndata: {}\n\n`)).toBe(true);
    expect(streamed).toContain(`"n":${taken - 1},`);
    expect(answered).toBeGreaterThan(8_000_000);
  });

  test("sends away who is just being let in, and is not held up by a viewer who does not read", async () => {
    const { hub, url, headers, events, drain } = await startServer();
    const reached = new Promise<() => void>((resolve) => {
      hub.onOpen = () => new Promise<void>((letIn) => resolve(letIn));
    });
    const late = watch(url, { headers });
    const letIn = await reached;
    hub.onOpen = () => undefined;
    const stalled = await stalling(new URL(url).origin, PATH, headers);
    await until(() => hub.seats.length === 1);
    await fill((hub.seats[0] as Talk["seats"][number]).viewer);
    const drained = drain();
    letIn();
    const watcher = await late;
    expect([await watcher.over, watcher.text()]).toEqual(["ended", "event: rotate\ndata: {}\n\n"]);
    await drained;
    expect(hub.seats.map(({ detached }) => detached)).toEqual([1, 1]);
    expect(await events()).toEqual(["200 null", "200 null"]);
    stalled.destroy();
  });
});

describe("a client that goes away", () => {
  test("from a stream is no error: its place is given up once, and its event completed", async () => {
    for (const leave of [
      (socket: Socket) => socket.end(),
      (socket: Socket) => socket.destroy(),
      (socket: Socket) => socket.resetAndDestroy(),
    ]) {
      const seat = talk.seat();
      const watcher = await watch(url(`${PATH}?room=left`), { headers: bearer(talk.alice) });
      const gone = await seat;
      const closes: boolean[] = [];
      gone.viewer.onClose = () => void closes.push(gone.viewer.closed);
      leave(watcher.socket);
      await talk.empty();
      expect(await talk.event(watcher.id)).toMatchObject({
        status: 200,
        errorCode: null,
        query: "room=left",
        requestBody: null,
        responseBody: null,
      });
      expect([gone.detached, gone.viewer.closed, gone.viewer.send(big(1)), closes]).toEqual([1, true, false, [true]]);
      gone.viewer.end("too_late");
      expect(gone.detached).toBe(1);
    }
  });

  test.each(["server-sent events", "WebSocket"])(
    "before its stream (%s) began is told from one that had it",
    async (transport) => {
      let letIn = () => {};
      let opening = 0;
      talk.onOpen = () => {
        opening++;
        return new Promise<void>((resolve) => {
          letIn = resolve;
        });
      };
      const { hostname, port } = new URL(talk.app.url);
      const socket = connect(Number(port), hostname);
      const lines = [`GET ${PATH} HTTP/1.1`, "Host: h", `Authorization: Bearer ${talk.alice.token}`];
      socket.write(`${[...lines, ...(transport === "WebSocket" ? KEY_HEADERS : [])].join("\r\n")}\r\n\r\n`);
      await until(() => opening === 1);
      const end = ends.at(-1) as Socket;
      socket.resetAndDestroy();
      if (transport !== "WebSocket") await new Promise((resolve) => end.once("close", resolve));
      const lines0 = talk.app.lines.length;
      letIn();
      await until(() => talk.app.lines.length > lines0);
      const told = talk.app.lines.at(-1);
      const seat = talk.seats.at(-1);
      expect(seat?.detached).toBe(1);
      if (transport === "WebSocket") {
        // Nobody reads a connection that is not yet taken, so it may be noticed only behind the handshake.
        expect([499, 101]).toContain(told?.status);
      } else {
        expect(told).toMatchObject({ status: 499, code: "client_closed" });
        expect(await talk.event(String(told?.requestId))).toMatchObject({ status: 499, errorCode: "client_closed" });
      }
    },
  );

  test("two thousand times leaves nothing behind", { timeout: 120_000 }, async () => {
    await settled(openSockets);
    const before = openSockets();
    const seats = talk.seats.length;
    const handles = process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
    for (let round = 0; round < 40; round++) {
      await Promise.all(
        Array.from({ length: 50 }, async (_, i) => {
          if (i % 5 === 0) {
            const { socket, closed } = await converse(url(), bearer(talk.alice));
            if (i % 2) socket.terminate();
            else socket.close();
            await closed;
          } else {
            const watcher = await watch(url(), { headers: bearer(talk.alice) });
            if (i % 4 === 0) talk.seats.at(-1)?.viewer.end();
            watcher.leave();
          }
        }),
      );
    }
    await talk.empty();
    await settled(openSockets);
    expect(talk.seats.length - seats).toBe(2_000);
    expect(talk.seats.slice(seats).every(({ detached }) => detached === 1)).toBe(true);
    expect(openSockets()).toBe(before);
    expect(process.getActiveResourcesInfo().filter((name) => name === "Timeout").length).toBeLessThanOrEqual(handles + 1);
    expect(ends.filter((it) => !it.destroyed).length).toBeLessThanOrEqual(before);
  });
});

describe("an event", () => {
  test("is there while its stream is open, and completed when it is over", async () => {
    const watcher = await watch(url(`${PATH}?room=audited`), { headers: bearer(talk.alice) });
    const find = async () => (await search(talk.app.deps.store, { ids: [watcher.id], limit: 1 }))[0];
    expect(await find()).toMatchObject({
      endpoint: "talk.stream",
      userId: talk.alice.id,
      query: "room=audited",
      endedAt: null,
      status: null,
    });
    watcher.leave();
    expect(await talk.event(watcher.id)).toMatchObject({
      status: 200,
      endedAt: expect.any(Date),
      durationMs: expect.any(Number),
    });
    const line = talk.app.lines.find(({ requestId }) => requestId === watcher.id);
    expect(line).toEqual({
      severity: "INFO",
      message: `GET ${PATH} 200`,
      requestId: watcher.id,
      endpoint: "talk.stream",
      userId: talk.alice.id,
      status: 200,
      ms: expect.any(Number),
      code: undefined,
    });
  });

  test("is complete before the client sees the end that we make", async () => {
    const seat = talk.seat();
    const watcher = await watch(url(), { headers: bearer(talk.alice) });
    (await seat).viewer.end("lagged");
    await watcher.over;
    const [event] = await search(talk.app.deps.store, { ids: [watcher.id], limit: 1 });
    expect(event).toMatchObject({ status: 200, errorCode: "lagged", endedAt: expect.any(Date) });
  });
});

describe("a mistake of whoever sends", () => {
  const wrong = () => {
    throw new Error("the secret of the house");
  };
  const told = (id: string) => talk.app.lines.find(({ severity, requestId }) => severity === "ERROR" && requestId === id);

  test("in `onDrain` ends that stream alone, and is in the log", async () => {
    const seat = talk.seat();
    const socket = await stalling(talk.app.url, PATH, bearer(talk.alice));
    const id = /x-proxy-gpt-request-id: (\S+)/.exec(String(socket.read()))?.[1] as string;
    const { viewer } = await seat;
    viewer.onDrain = wrong;
    await fill(viewer);
    socket.resume();
    expect(await talk.event(id)).toMatchObject({ status: 200, errorCode: "internal" });
    expect(told(id)).toMatchObject({ message: "stream failed", error: "Error: the secret of the house" });
    socket.destroy();
  });

  test("in `onResume`, in `onClose` and in what detaches, too", async () => {
    const seat = talk.seat();
    const first = await converse(url(), bearer(talk.alice));
    (await seat).viewer.onResume = wrong;
    first.socket.send('{"resume":"1"}');
    expect(await first.closed).toBe(1011);
    expect(await talk.event(first.id)).toMatchObject({ errorCode: "internal" });

    const next = talk.seat();
    const second = await watch(url(), { headers: bearer(talk.alice) });
    const { viewer } = await next;
    viewer.onClose = wrong;
    viewer.end();
    await second.over;
    expect(await talk.event(second.id)).toMatchObject({ errorCode: "internal" });

    talk.onDetach = wrong;
    const third = await watch(url(), { headers: bearer(talk.alice) });
    third.leave();
    expect(await talk.event(third.id)).toMatchObject({ errorCode: "internal" });
    for (const { id } of [first, second, third]) expect(told(id)).toMatchObject({ error: "Error: the secret of the house" });
    expect((await talk.app.call("/")).status).toBe(200);
  });
});
