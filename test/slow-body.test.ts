import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { ApiError } from "../lib/http/error.ts";
import { readBody } from "../lib/http/input.ts";
import { startApp } from "./support/app.ts";

test("a body that does not come in time is given up, and its connection closed; one that does is whole", async () => {
  const outcomes: unknown[] = [];
  const server = createServer(async (req, res) => {
    outcomes.push(await readBody(req, 1_024, 100).then(String, (error) => (error instanceof ApiError ? error.code : error)));
    if (!req.destroyed || req.complete) res.end("read");
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  expect(await (await fetch(`http://127.0.0.1:${port}`, { method: "POST", body: "whole" })).text()).toBe("read");

  const slow = connect(port, "127.0.0.1");
  slow.on("error", () => {});
  slow.write("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhal");
  await once(slow, "close");
  expect(outcomes).toEqual(["whole", "client_closed"]);
  server.closeAllConnections();
  server.close();
});

test("half a body behind an upgrade that is not taken is no request", async () => {
  const app = await startApp();
  onTestFinished(() => app.close());
  const socket = connect(Number(new URL(app.url).port), "127.0.0.1");
  socket.on("error", () => {});
  const form = "username=halfway&password=long-enough-to-be-cut";
  const head = [
    "POST /user/signup HTTP/1.1",
    "Host: h",
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
  ];
  const type = ["Content-Type: application/x-www-form-urlencoded", `Content-Length: ${form.length}`];
  socket.end(`${[...head, ...type].join("\r\n")}\r\n\r\n${form.slice(0, -6)}`);
  await once(socket, "close");
  await app.person("witness");
  expect((await app.deps.store.db.select().from(app.deps.store.users)).map(({ username }) => username)).toEqual(["witness"]);
});
