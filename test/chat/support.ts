import { once } from "node:events";
import { type ClientRequest, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { uuidv7 } from "uuidv7";
import { search } from "../../lib/repo/events.ts";
import type { Message } from "../../lib/repo/messages.ts";
import * as sessions from "../../lib/repo/sessions.ts";
import * as users from "../../lib/repo/users.ts";
import type { Store } from "../../lib/store/store.ts";
import { mintToken } from "../../lib/token.ts";
import { type Answer, type App, type CallOptions, type Person, startApp } from "../support/app.ts";
import { type Handler, type Recorded, startUpstream, type Upstream } from "../support/upstream.ts";
import { chatUsage, sse } from "../support/upstream-answers.ts";

type Fields = Record<string, unknown>;
type Line = Record<string, unknown>;

/** Longer than anything here takes; a wait that is over says what was waited for. */
const PATIENCE_MS = 15_000;

/** Resolves when it is so. `changed` is called with what asks again. */
function whenSo(what: string, is: () => boolean, changed: (ask: () => void) => () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = () => {
      if (!is()) return;
      clearTimeout(late);
      forget();
      resolve();
    };
    const late = setTimeout(() => {
      forget();
      reject(new Error(`not so within ${PATIENCE_MS} ms: ${what}`));
    }, PATIENCE_MS);
    const forget = changed(settle);
    settle();
  });
}

/** The product in front of the scripted upstream. */
export type Chats = {
  app: App;
  upstream: Upstream;
  /** Every line that was logged. */
  lines: Line[];
  /** A new chat of somebody new, with these others in it. */
  chat(others?: number, fields?: Fields): Promise<Chat>;
  logged(accepts: (line: Line) => boolean): Promise<Line>;
  /** The event of an answer, once its line was logged. */
  eventOf(answer: { headers: Headers | IncomingMessage["headers"] }): Promise<Awaited<ReturnType<typeof search>>[number]>;
  reset(): void;
  close(): Promise<void>;
};

export async function startChats(
  env: Record<string, string> | ((upstream: Upstream) => Record<string, string>) = {},
  sources: Parameters<typeof startApp>[1] = {},
): Promise<Chats> {
  const upstream = await startUpstream();
  const lines: Line[] = [];
  const hearing = new Set<() => void>();
  const log = (line: Line) => {
    lines.push(line);
    for (const hear of [...hearing]) hear();
  };
  const settings = typeof env === "function" ? env(upstream) : env;
  const app = await startApp({ API_URL: upstream.url, ...settings }, { log, ...sources });
  const logged = async (accepts: (line: Line) => boolean): Promise<Line> => {
    await whenSo(
      `a line of the log: ${accepts}`,
      () => lines.some(accepts),
      (ask) => {
        hearing.add(ask);
        return () => hearing.delete(ask);
      },
    );
    return lines.find(accepts) as Line;
  };
  return {
    app,
    upstream,
    lines,
    logged,
    chat: (others = 0, fields = {}) => newChat(app, others, fields),
    eventOf: async ({ headers }) => {
      const named = headers instanceof Headers ? headers.get(REQUEST_ID) : headers[REQUEST_ID];
      await logged(({ requestId, status }) => requestId === named && status !== undefined);
      const [event] = await search(app.deps.store, { ids: [String(named)], limit: 1 });
      if (!event) throw new Error(`there is no event ${named}`);
      return event;
    },
    reset: () => {
      lines.length = 0;
      upstream.reset();
    },
    close: async () => {
      await Promise.all([app.close(), upstream.close()]);
    },
  };
}

const REQUEST_ID = "x-proxy-gpt-request-id";

/** A chat and who is in it. */
export type Chat = {
  id: string;
  owner: Person;
  others: Person[];
  /** A request in somebody's name, the owner's unless told. */
  call(path: string, body?: Fields, by?: Person, headers?: Record<string, string>): Promise<Answer>;
  prompt(fields: Fields | string, by?: Person, headers?: Record<string, string>): Promise<Answer>;
  /** The messages of the chat, in their order, as its owner reads them. */
  read(): Promise<Fields[]>;
  /** Its rows, in their order. */
  rows(): Promise<Message[]>;
  watch(by?: Person, query?: string): Promise<Viewer>;
};

let people = 0;

/** Somebody new who is signed in, without the time that a password takes. */
export async function person(store: Store, name = `someone${++people}-${process.pid}`): Promise<Person> {
  const createdAt = new Date();
  const user = { id: uuidv7(), username: name, name: null, passwordHash: "none", admin: false, createdAt };
  const endsAt = new Date(createdAt.getTime() + 86_400_000);
  const session = { id: uuidv7(), userId: user.id, kind: "session", label: null, createdAt, expiresAt: endsAt, endsAt } as const;
  const minted = mintToken(session.kind);
  await store.atomic((q) => [users.insert(q, store, user), sessions.insert(q, store, session, minted)]);
  return { id: user.id, username: name, token: minted.token };
}

async function newChat(app: App, others: number, fields: Fields): Promise<Chat> {
  const everyone = Array.from({ length: others + 1 }, () => person(app.deps.store));
  const [owner, ...rest] = (await Promise.all(everyone)) as [Person, ...Person[]];
  const made = await app.call("/chat/create", { token: owner.token, body: { name: "A chat", ...fields } });
  if (made.status !== 200) throw new Error(`chat/create answered ${made.status}: ${made.text}`);
  const { id } = made.json as { id: string };
  for (let at = 0; at < rest.length; at += 100) {
    const user_ids = rest.slice(at, at + 100).map((it) => it.id);
    const added = await app.call("/chat/user/add", { token: owner.token, body: { chat_id: id, user_ids } });
    if (added.status !== 200) throw new Error(`chat/user/add answered ${added.status}: ${added.text}`);
  }
  return chatOf(app, id, owner, rest);
}

/** A chat that is there, as its people see it. */
export function chatOf(app: Pick<App, "url" | "call" | "deps">, id: string, owner: Person, others: Person[] = []): Chat {
  const call: Chat["call"] = (path, body, by = owner, headers = {}) => {
    const options: CallOptions = { token: by.token, headers, ...(body && { body }) };
    return app.call(path, options);
  };
  return {
    id,
    owner,
    others,
    call,
    prompt: (given, by, headers) =>
      call("/chat/prompt", { id, ...(typeof given === "string" ? { prompt: given } : given) }, by, headers),
    read: async () => {
      const { status, text, json } = await call("/chat/read", { id, limit: 1000 });
      if (status !== 200) throw new Error(`chat/read answered ${status}: ${text}`);
      return json.messages;
    },
    rows: async () => {
      const { db, messages } = app.deps.store;
      return (await db.select().from(messages).orderBy(messages.seq)).filter((row) => row.chatId === id);
    },
    watch: (by = owner, query = "") => watchStream(`${app.url}/chat/stream?id=${id}${query}`, by.token),
  };
}

/** A frame as it came. */
export type Heard = { id: string | null; event: string | null; data: Fields };
type Said = { message: { id: string; user_id: string; prompt?: string; reply: string }; partial: boolean };

/** A message as a client makes it from the frames. */
export type Rebuilt = {
  id: string;
  prompt: string | undefined;
  userId: string;
  /** How often it began. */
  begun: number;
  /** What was added since it began last. */
  streamed: string;
  deltas: number;
  /** The whole reply, once that has come. */
  whole: string | null;
  ends: number;
};

/** Somebody who watches a chat by server-sent events, or hears the answer to a prompt by them. */
export type Viewer = {
  status: number;
  headers: IncomingMessage["headers"];
  heard: Heard[];
  messages: Map<string, Rebuilt>;
  /** What was named by this event. */
  named(event: string): Fields[];
  /** Resolves when it is so, of what was heard so far. */
  until(what: string, is: (viewer: Viewer) => boolean): Promise<void>;
  /** The message with this prompt, or id, once its end has come. */
  ended(promptOrId: string): Promise<Rebuilt>;
  /** The message with this prompt, or id, once so much of its reply has come. */
  partly(promptOrId: string, text: string): Promise<Rebuilt>;
  find(promptOrId: string): Rebuilt | undefined;
  over: Promise<"ended" | "cut">;
  pause(): void;
  resume(): void;
  leave(): void;
};

/** Watches, and resolves when the stream has begun. */
export const watchStream = (url: string, token: string, headers: Record<string, string> = {}): Promise<Viewer> => {
  const req = httpRequest(url, { headers: { authorization: `Bearer ${token}`, ...headers }, agent: false });
  req.end();
  return viewerOf(req);
};

/** Prompts, and hears the answer as events. */
export function promptStream(url: string, token: string, body: Fields, headers: Record<string, string> = {}): Promise<Viewer> {
  const own = { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "text/event-stream" };
  const req = httpRequest(`${url}/chat/prompt`, { method: "POST", headers: { ...own, ...headers }, agent: false });
  req.end(JSON.stringify(body));
  return viewerOf(req);
}

async function viewerOf(req: ClientRequest): Promise<Viewer> {
  const [res] = (await once(req, "response")) as [IncomingMessage];
  const heard: Heard[] = [];
  const messages = new Map<string, Rebuilt>();
  const asking = new Set<() => void>();
  let rest = "";
  const tell = () => {
    for (const ask of [...asking]) ask();
  };
  const take = (frame: Heard) => {
    heard.push(frame);
    if (frame.event === null) rebuild(messages, frame.data as Said);
  };
  res.setEncoding("utf8").on("data", (text: string) => {
    const parts = (rest + text).split("\n\n");
    rest = parts.pop() ?? "";
    for (const part of parts) {
      const frame = frameOf(part);
      if (frame) take(frame);
    }
    tell();
  });
  const over = new Promise<"ended" | "cut">((resolve) => {
    res.once("end", () => resolve("ended"));
    res.once("close", () => resolve("cut"));
  });
  res.on("error", () => {});
  req.on("error", () => {});
  const find = (key: string) => messages.get(key) ?? [...messages.values()].find(({ prompt }) => prompt === key);
  const viewer: Viewer = {
    status: res.statusCode ?? 0,
    headers: res.headers,
    heard,
    messages,
    named: (event) => heard.filter((it) => it.event === event).map(({ data }) => data),
    until: (what, is) =>
      whenSo(
        what,
        () => is(viewer),
        (ask) => {
          asking.add(ask);
          return () => asking.delete(ask);
        },
      ),
    find,
    ended: async (key) => {
      await viewer.until(`the end of ${key.slice(0, 100)}`, () => find(key)?.whole != null);
      return find(key) as Rebuilt;
    },
    partly: async (key, text) => {
      await viewer.until(`${key.slice(0, 100)}: ${text.slice(0, 100)}`, () => find(key)?.streamed.includes(text) === true);
      return find(key) as Rebuilt;
    },
    over,
    pause: () => void res.pause(),
    resume: () => void res.resume(),
    leave: () => void res.destroy(),
  };
  return viewer;
}

/** A server-sent event; null for a comment. */
function frameOf(text: string): Heard | null {
  const fields = new Map(
    text.split("\n").map((line): [string, string] => {
      const colon = line.indexOf(": ");
      return [line.slice(0, colon), line.slice(colon + 2)];
    }),
  );
  const data = fields.get("data");
  return data === undefined ? null : { id: fields.get("id") ?? null, event: fields.get("event") ?? null, data: JSON.parse(data) };
}

/** An empty reply begins it, or begins it anew; more is added; what is not partial is all of it. */
function rebuild(messages: Map<string, Rebuilt>, { message: { id, user_id: userId, prompt, reply }, partial }: Said): void {
  const known = messages.get(id);
  const message = known ?? { id, prompt, userId, begun: 0, streamed: "", deltas: 0, whole: null, ends: 0 };
  messages.set(id, message);
  message.prompt ??= prompt;
  if (!partial) Object.assign(message, { whole: reply, ends: message.ends + 1 });
  else if (reply === "") Object.assign(message, { begun: message.begun + 1, streamed: "" });
  else if (message.begun === 0) throw new Error(`message ${id} is added to and has not begun`);
  else Object.assign(message, { streamed: message.streamed + reply, deltas: message.deltas + 1 });
}

/** A model whose answer is in the test's hand. */
export type Model = {
  handler: Handler;
  /** The call, once its body is there. */
  asked: Promise<Recorded>;
  /** More of the reply; the first opens the answer. Resolves when it is with the kernel. */
  say(text: string): Promise<void>;
  /** The end as OpenAI has it, with its usage unless told otherwise. */
  end(usage?: object | null): void;
  /** Any bytes. */
  send(bytes: string | Buffer): Promise<void>;
  /** Ends the answer without what ends a completion. */
  hangUp(): void;
  reset(): void;
};

export function model(name = "gpt-4o-mini-2024-07-18"): Model {
  const arrived: { res: ServerResponse; recorded: Recorded }[] = [];
  let arrive = () => {};
  const here = new Promise<void>((resolve) => {
    arrive = resolve;
  });
  const response = async () => {
    await here;
    return (arrived[0] as (typeof arrived)[number]).res;
  };
  const send = async (bytes: string | Buffer) => {
    const res = await response();
    if (!res.headersSent) res.writeHead(200, { "content-type": "text/event-stream" });
    await new Promise<void>((resolve) => res.write(bytes, () => resolve()));
  };
  const chunk = (delta: object, finish_reason: string | null = null) =>
    sse({ id: "chatcmpl-1", object: "chat.completion.chunk", model: name, choices: [{ index: 0, delta, finish_reason }] });
  return {
    handler: async (_, res, recorded) => {
      await recorded.complete;
      arrived.push({ res, recorded });
      arrive();
    },
    asked: here.then(() => (arrived[0] as (typeof arrived)[number]).recorded),
    send,
    say: (text) => send(chunk({ content: text })),
    end: async (usage: object | null = chatUsage) => {
      await send(chunk({}, "stop"));
      if (usage) await send(sse({ choices: [], usage }));
      await send("data: [DONE]\n\n");
      (await response()).end();
    },
    hangUp: async () => void (await response()).end(),
    reset: async () => void (await response()).req.socket.resetAndDestroy(),
  };
}

/** A whole streamed answer of these pieces. */
export const replying =
  (pieces: readonly string[] | string, usage: object | null = chatUsage): Handler =>
  async (...call) => {
    const it = model();
    await it.handler(...call);
    for (const piece of [pieces].flat()) await it.say(piece);
    it.end(usage);
  };

export type Turn = { role: string; content: string; name?: string };

/** What the model was sent. */
export async function sent(recorded: Recorded): Promise<Fields & { model: string; messages: Turn[] }> {
  await recorded.complete;
  return JSON.parse(recorded.body.toString("utf8"));
}

/** Answers each prompt by what this makes of it. */
export function answerEach(upstream: Upstream, reply: (prompt: string, body: Fields) => string): void {
  upstream.when(
    () => true,
    async (...call) => {
      const body = await sent(call[2]);
      await replying(reply(body.messages.at(-1)?.content ?? "", body))(...call);
    },
  );
}

/** The model for the prompt with these words, however many others are asked at the same time. */
export function modelFor(upstream: Upstream, prompt: string): Model {
  const it = model();
  upstream.when(async (recorded) => (await sent(recorded)).messages.at(-1)?.content === prompt, it.handler);
  return it;
}
