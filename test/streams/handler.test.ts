import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { http } from "@google-cloud/functions-framework";
import { getTestServer } from "@google-cloud/functions-framework/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Listener } from "../../lib/http/attach.ts";
import { Frame } from "../../lib/http/frame.ts";
import { createListener } from "../../lib/http/listen.ts";
import { expectRefusal } from "../support/answers.ts";
import { bearer, startTalk, type Talk, talkFunction, watch } from "./talk.ts";

const PATH = "/talk/stream";
const json = { "content-type": "application/json" };

let talk: Talk;
let listener: Listener;
beforeAll(async () => {
  talk = await startTalk();
  // The same listener as an exported handler serves, over the same store.
  listener = createListener([talkFunction(talk)], talk.app.deps, { heartbeatMs: 20 });
});
afterAll(() => talk.close());

/** A server that reads every body before it calls the handler. */
const eager = () =>
  createServer(async (req, res) => {
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk);
    if (req.method !== "GET") Object.assign(req, { rawBody: Buffer.concat(chunks) });
    listener.request(req, res);
  });
const framework = () => {
  http("talk", (req, res) => listener.request(req, res));
  return getTestServer("talk") as Server;
};

describe.each([
  ["a server that was not taken over", eager],
  ["functions-framework that was not taken over", framework],
])("behind %s", (_name, start) => {
  let server: Server;
  let url: string;
  beforeAll(async () => {
    server = start().listen(0, "127.0.0.1");
    await once(server, "listening");
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  test.each([
    ["GET", {}, undefined],
    ["POST", { "content-type": "application/x-www-form-urlencoded" }, "room=read"],
    ["POST", json, '{"room":"read"}'],
  ])("a stream flows by %s %o", async (method, headers, body) => {
    const seat = talk.seat();
    const watcher = await watch(`${url}${PATH}${body ? "" : "?room=read"}`, {
      method,
      headers: { ...bearer(talk.alice), ...headers },
      ...(body !== undefined && { body }),
    });
    const { viewer, room } = await seat;
    expect([watcher.status, room]).toEqual([200, "read"]);
    for (let n = 0; n < 3; n++) {
      viewer.send(new Frame(`{"n":${n}}`, { id: `${n}` }));
      await watcher.until(`id: ${n}\ndata: {"n":${n}}\n\n`);
    }
    await watcher.until("event: ping\ndata: {}\n\n");
    viewer.end();
    expect(await watcher.over).toBe("ended");
    expect(await talk.event(watcher.id)).toMatchObject({ status: 200, errorCode: null });
  });

  test("a token in the body is a credential, and a client that leaves is noticed", async () => {
    const watcher = await watch(url + PATH, { method: "POST", headers: json, body: JSON.stringify({ token: talk.alice.token }) });
    watcher.leave();
    expect(await talk.event(watcher.id)).toMatchObject({ status: 200, userId: talk.alice.id });
    await talk.empty();
  });

  test("a refusal is an ordinary answer", async () => {
    expectRefusal(await read(await fetch(url + PATH)), 401, "unauthenticated");
    const body = JSON.stringify({ room: "x".repeat(70_000) });
    const large = await fetch(url + PATH, { method: "POST", headers: { ...json, ...bearer(talk.alice) }, body });
    expectRefusal(await read(large), 413, "too_large");
  });

  test("an endpoint's answer streams", async () => {
    talk.onAnswer = ({ stream }) => stream?.send(new Frame('{"n":1}'));
    const headers = { ...bearer(talk.alice), accept: "text/event-stream" };
    const watcher = await watch(`${url}/talk/answer`, { method: "POST", headers });
    await watcher.over;
    expect(watcher.text()).toBe('data: {"n":1}\n\n');
    talk.quiet();
  });
});

async function read(answer: Response) {
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, text, json: JSON.parse(text) };
}
