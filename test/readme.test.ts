import { execFile, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startDemo } from "../lib/llm/demo.ts";
import { search } from "../lib/repo/events.ts";
import { type App, startApp } from "./support/app.ts";
import { until } from "./support/relay.ts";

const noCurl = spawnSync("curl", ["--version"]).status !== 0;
if (noCurl) process.stderr.write("skipped: the README's curl lines (curl is not installed)\n");

let demo: Awaited<ReturnType<typeof startDemo>>;
let app: App;
beforeAll(async () => {
  demo = await startDemo();
  app = await startApp({ API_URL: demo.url });
});
afterAll(async () => {
  await app.close();
  await demo.close();
});

/** The commands of README's shell blocks that begin with `curl`, continuation lines joined. */
const lines = [...readFileSync("README.md", "utf8").matchAll(/```sh\n(.*?)```/gs)]
  .flatMap(([, block = ""]) => block.replaceAll("\\\n", "").split("\n"))
  .filter((line) => line.startsWith("curl "));

test.skipIf(noCurl)("the README's curl lines do what it says, in the order in which they stand there", async () => {
  const run = (line: string, token: string, chat = "") => {
    const command = line.replaceAll("http://localhost:8080", app.url).replace("curl ", "exec curl -sS --fail-with-body ");
    return promisify(execFile)("sh", ["-c", command], { env: { ...process.env, TOKEN: token, CHAT: chat } });
  };
  const shell = async (line: string, token: string, chat?: string) => JSON.parse((await run(line, token, chat)).stdout);
  const [signup = "", models = "", chat = "", key = "", create = "", watch = "", prompt = "", ...rest] = lines;
  const [say = "", list = "", events = ""] = rest;
  expect(lines).toHaveLength(10);
  const { token, user } = await shell(signup, "");
  expect(user).toMatchObject({ username: "asim", admin: true });
  expect((await shell(models, token)).object).toBe("list");
  expect((await shell(chat, token)).choices[0].message.content).toContain("Tell me about Spain");
  const made = await shell(key, token);
  expect(made.key).toMatchObject({ label: "notebook", expires_at: "2030-01-01T00:00:00.000Z" });
  expect((await shell(models, made.token)).object).toBe("list");
  const { id } = await shell(create, token);
  const watching = run(watch, token, id);
  let seen = "";
  watching.child.stdout?.on("data", (text: string) => {
    seen += text;
  });
  await until(async () => (await search(app.deps.store, { endpoint: "chat.stream", limit: 1 })).length > 0);
  const { reply } = await shell(prompt, token, id);
  await until(() => seen.includes('"partial":false'), 10_000);
  expect(seen).toContain(JSON.stringify(reply));
  watching.child.kill();
  await watching.catch(() => {});
  const { content } = await shell(say, token);
  expect(await shell(list, token)).toEqual([
    { content: "tell me about spain", role: "user" },
    { content, role: "assistant" },
  ]);
  const found = await shell(events, token);
  expect(found.events.map((event: { path: string }) => event.path)).toEqual(["/v1/models", "/v1/chat/completions", "/v1/models"]);
});
