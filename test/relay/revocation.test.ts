import { once } from "node:events";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket } from "ws";
import { type App, PASSWORD, startApp } from "../support/app.ts";
import { faults, startUpstream, type Upstream } from "../support/upstream.ts";

let upstream: Upstream;
let app: App;
beforeAll(async () => {
  upstream = await startUpstream();
  app = await startApp({ API_URL: upstream.url }, { authorizeEveryMs: 40 });
});
afterAll(async () => {
  await app.close();
  await upstream.close();
});

/** A stream that would go on for a minute, and has begun. */
async function openStream(token: string) {
  const before = upstream.requests.length;
  upstream.next(faults.stream({ chunks: 3_000, gapMs: 20 }));
  const response = await fetch(`${app.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ model: "m", stream: true }),
  });
  const seen = await upstream.waitFor(before + 1);
  const reader = response.body?.getReader() as ReadableStreamDefaultReader<Uint8Array>;
  await reader.read();
  const drain = async () => {
    for (;;) if ((await reader.read()).done) return "ended as if whole";
  };
  return { id: response.headers.get("x-proxy-gpt-request-id"), over: drain().catch(() => "cut"), seen };
}

async function errorOf(id: string | null, token: string): Promise<unknown> {
  const { json } = await app.call(`/system/events?endpoint=proxy.v1&limit=20`, { token });
  return json.events.find((event: { id: string }) => event.id === id)?.error_code;
}

test("a stream that runs for a session which ends is cut, the upstream aborted, and the event says why", async () => {
  const admin = await app.person();
  const signOut = await app.person();
  const changed = await app.person();
  const { json } = await app.call("/user/login", { body: { username: changed.username, password: PASSWORD } });
  const streams = [await openStream(signOut.token), await openStream(changed.token)];
  const kept = await openStream(json.token);

  await app.call("/user/logout", { token: signOut.token, body: {} });
  const change = { password: PASSWORD, new_password: `${PASSWORD}2` };
  expect((await app.call("/user/password/update", { token: json.token, body: change })).status).toBe(200);
  for (const { id, over, seen } of streams) {
    expect(await over).toBe("cut");
    expect((await seen.closed).aborted).toBe(true);
    expect(await errorOf(id, admin.token)).toBe("session_ended");
  }
  // The session that changed the password goes on.
  expect(await Promise.race([kept.over, new Promise((resolve) => setTimeout(resolve, 200, "runs"))])).toBe("runs");
  await app.call("/user/logout", { token: json.token, body: {} });
  expect(await kept.over).toBe("cut");
});

test("so is a WebSocket", async () => {
  const { token } = await app.person();
  const client = new WebSocket(`${app.url.replace("http", "ws")}/v1/realtime?model=m`, {
    headers: { authorization: `Bearer ${token}` },
  });
  await once(client, "open");
  const closed = once(client, "close");
  await app.call("/user/logout", { token, body: {} });
  await closed;
  const seen = await upstream.waitFor(({ target }) => target.startsWith("/v1/realtime"));
  expect((await seen.closed).aborted).toBe(true);
});
