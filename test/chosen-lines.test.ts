import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { functions } from "../functions/all.ts";
import { startDemo } from "../lib/llm/demo.ts";
import { type App, type Person, startApp } from "./support/app.ts";
import { credentials, lineFor, shell, skippedWithoutCurl } from "./support/curl.ts";

// The `curl` lines of the document whose chats have ids that the client chose, word for word; a credential is added, and
// `<chat_id>` is replaced by one. What they send lies in files of the names that stand there.

const LINES = {
  hello: "curl -X GET http://localhost:8080/",
  readSystem: "curl -X GET http://localhost:8080/system",
  setSystem: 'curl -X POST -H "Content-Type: application/json" --data @system.json http://localhost:8080/system',
  moderate: 'curl -X POST -H "Content-Type: application/json" --data @message.json http://localhost:8080/mod',
  setChatSystem: 'curl -X POST -H "Content-Type: application/json" --data @system.json http://localhost:8080/<chat_id>/system',
  readChatSystem: "curl -X GET http://localhost:8080/<chat_id>/system",
  say: 'curl -X POST -H "Content-Type: application/json" --data @message.json http://localhost:8080/<chat_id>/chat',
  list: "curl -X GET http://localhost:8080/<chat_id>/chat",
  image: 'curl -X POST -H "Content-Type: application/json" --data @image.json http://localhost:8080/<chat_id>/img',
  clear: "curl -X POST http://localhost:8080/<chat_id>/clear",
};
const FILES = {
  "system.json": { content: "You are a python engineer" },
  "message.json": { content: "How do I sort a list?" },
  "image.json": { content: "What's on this image?", url: "https://pictures.example/cat.png" },
};
const TOKENS = { completion_tokens: expect.any(Number), prompt_tokens: expect.any(Number), total_tokens: expect.any(Number) };

const noCurl = skippedWithoutCurl("the curl lines of the client-chosen chat API");

let demo: Awaited<ReturnType<typeof startDemo>>;
let folder: string;
beforeAll(async () => {
  demo = await startDemo();
  folder = mkdtempSync(join(tmpdir(), "proxy-gpt-lines-"));
  for (const [name, json] of Object.entries(FILES)) writeFileSync(join(folder, name), JSON.stringify(json));
});
afterAll(async () => {
  await demo.close();
  rmSync(folder, { recursive: true });
});

/** How a document's path is asked for: as it stands there, or as a deployed function has it. */
type Place = { url(name: string): string; path(path: string, name: string): string };
type Ran = (line: string, name: string) => Promise<string>;

/** Runs every line in turn, and looks at what each answers. */
async function runAll(run: Ran): Promise<void> {
  const json = async (line: string, name: string) => JSON.parse(await run(line, name));
  expect(await run(LINES.hello, "chat")).toBe("Hello, World!");
  expect(await json(LINES.setSystem, "system")).toEqual({});
  expect(await json(LINES.readSystem, "system")).toEqual({ content: "You are a python engineer" });
  expect(await json(LINES.moderate, "mod")).toEqual({
    id: expect.any(String),
    model: expect.any(String),
    results: [expect.objectContaining({ flagged: false })],
  });
  expect(await json(LINES.readChatSystem, "system")).toEqual({ content: "You are a python engineer" });
  expect(await json(LINES.setChatSystem, "system")).toEqual({});
  expect(await json(LINES.readChatSystem, "system")).toEqual({ content: "You are a python engineer" });
  const said = await json(LINES.say, "chat");
  expect(said).toEqual({ content: expect.stringContaining("How do I sort a list?"), role: "assistant", tokens: TOKENS });
  expect(said.content).toContain("You are a python engineer");
  expect(said.tokens.total_tokens).toBe(said.tokens.prompt_tokens + said.tokens.completion_tokens);
  const shown = await json(LINES.image, "img");
  expect(shown).toEqual({ content: expect.stringContaining("cat.png"), role: "assistant", tokens: TOKENS });
  expect(await json(LINES.list, "chat")).toEqual([
    { content: "How do I sort a list?", role: "user" },
    { content: said.content, role: "assistant" },
    { content: "What's on this image?", role: "user", url: "https://pictures.example/cat.png" },
    { content: shown.content, role: "assistant" },
  ]);
  expect(await json(LINES.clear, "chat")).toEqual({});
  await expect(run(LINES.list, "chat")).rejects.toMatchObject({ code: 22, stdout: expect.stringContaining('"not_found"') });
}

let count = 0;
/** Runs lines there, all with one id for the chat, which nothing has yet. */
function runner(place: Place, credential: string): Ran {
  const chat = `demo-${++count}`;
  return (line, name) => {
    const [, path = ""] = /localhost:8080(\S*)$/.exec(line.replace("<chat_id>", chat)) ?? [];
    const there = line.replace(/http:\S*$/, `http://localhost:8080${place.path(path, name)}`);
    return shell(lineFor(there, place.url(name), credential), folder);
  };
}

describe.skipIf(noCurl)("the document's curl lines", () => {
  let app: App;
  let admin: Person;
  /** Every function by itself, on the same store. */
  const alone: Record<string, App> = {};
  beforeAll(async () => {
    app = await startApp({ API_URL: demo.url });
    admin = await app.person();
    for (const spec of functions)
      alone[spec.name] = await startApp({ API_URL: demo.url, DB_ADDRESS: `file:${app.file}` }, { functions: [spec] });
  });
  afterAll(() => Promise.all([app, ...Object.values(alone)].map((it) => it.close())));

  const together: Place = { url: () => app.url, path: (path) => path };
  const urlOf = (name: string) => (alone[name] as App).url;
  const places: Record<string, Place> = {
    "where all functions are served together": together,
    "there by the deployed paths": {
      ...together,
      path: (path, name) => (path === "/" || path === `/${name}` ? path : `/${name}${path}`),
    },
    "at each function by itself, behind a host that passes its name on": {
      url: urlOf,
      path: (path, name) => (path === `/${name}` ? path : `/${name}${path}`),
    },
    "at each function by itself, behind a host that takes its name away": {
      url: urlOf,
      path: (path, name) => (path === `/${name}` ? "/" : path),
    },
  };
  const ways = Object.entries(credentials);
  const all = Object.entries(places).flatMap(([where, place]) => ways.map(([way, of]) => [where, way, place, of] as const));

  test.each(all)("do what it says %s, by %s", async (_where, _way, place, credential) => {
    await runAll(runner(place, credential(admin)));
  });

  test("take the username and the token in the URL", async () => {
    const url = app.url.replace("http://", `http://${admin.username}:${admin.token}@`);
    await runAll(runner({ ...together, url: () => url }, ""));
  });

  test("without a credential are answered 401, but for the greeting", async () => {
    for (const [name, line] of Object.entries(LINES)) {
      const ran = shell(lineFor(line.replace("<chat_id>", "demo"), app.url), folder);
      if (name === "hello") expect(await ran).toBe("Hello, World!");
      else await expect(ran).rejects.toMatchObject({ code: 22, stdout: expect.stringContaining('"unauthenticated"') });
    }
  });
});
