import { request } from "node:http";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { search } from "../../lib/repo/events.ts";
import { type Chats, person, startChats } from "../chat/support.ts";
import { until } from "../support/relay.ts";
import { IMAGE } from "../support/samples.ts";

let chats: Chats;
beforeAll(async () => {
  chats = await startChats();
});
afterEach(() => chats.reset());
afterAll(() => chats.close());

const SILENT = () => {};

test.each([
  ["/img", "img.describe", IMAGE],
  ["/mod", "mod.check", { content: "Tell me about Spain" }],
])("whoever leaves %s before the answer aborts the upstream, and the event says so", async (path, endpoint, body) => {
  const { token, id: user } = await person(chats.app.deps.store);
  chats.upstream.next(SILENT);
  const asked = request(chats.app.url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
  });
  asked.on("error", () => {});
  asked.end(JSON.stringify(body));
  const upstream = await chats.upstream.waitFor(1);
  await upstream.complete;
  asked.destroy();
  expect(await upstream.closed).toMatchObject({ aborted: true });
  const found = () => search(chats.app.deps.store, { user, endpoint, limit: 2 });
  await until(async () => (await found())[0]?.endedAt != null);
  expect(await found()).toMatchObject([{ status: 499, errorCode: "client_closed" }]);
  expect(chats.upstream.requests).toHaveLength(1);
});
