import { spawn, spawnSync } from "node:child_process";
import { EventSource } from "eventsource";
import { EventSource as UndiciEventSource, WebSocket as UndiciWebSocket } from "undici";
import { WebSocket } from "ws";
import { channels } from "../support/answers.ts";
import type { Person } from "../support/app.ts";
import { eventParser, Hearing } from "./hearing.ts";

/** Where somebody watches a chat from. */
export type Place = {
  url: string;
  chatId: string;
  person: Person;
  /** The id of a frame: what is behind it is wanted. */
  after?: string;
};
/** Somebody who watches: `heard` is over all of its connections. */
export type Watching = {
  heard: Hearing;
  /** Resolves when the connection that is open now, or was last, is gone. */
  over: Promise<void>;
  /** What only a WebSocket can. */
  say(message: object): void;
  leave(): void;
};
/** A client as a developer uses it. Resolves when its stream is open. */
export type Client = (place: Place, heard?: Hearing) => Promise<Watching>;

const EVENTS = ["stopped", "failed", "reset", "rotate", "ping", "member", "deleted"];

const address = ({ url, chatId, after }: Place, more: Record<string, string> = {}): string =>
  `${url}/chat/stream?${new URLSearchParams({ id: chatId, ...(after !== undefined && { after }), ...more })}`;
const webSocketAddress = (place: Place, more?: Record<string, string>) => address(place, more).replace("http", "ws");

const cannotSay = () => {
  throw new Error("only a WebSocket says something");
};

/** A new ticket, as a page gets one that cannot send headers. */
export async function ticketFor({ url, chatId, person }: Place): Promise<string> {
  const headers = { ...channels.bearer(person), "content-type": "application/json" };
  const response = await fetch(`${url}/chat/ticket`, { method: "POST", headers, body: JSON.stringify({ id: chatId }) });
  if (response.status !== 200) throw new Error(`chat/ticket answered ${response.status}`);
  return ((await response.json()) as { ticket: string }).ticket;
}

export const eventSourceWithHeader: Client = (place, heard) =>
  byEventSource(
    new EventSource(address(place), {
      fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...channels.bearer(place.person) } }),
    }),
    heard,
  );

export const eventSourceWithTicket: Client = async (place, heard) =>
  byEventSource(new EventSource(address(place, { ticket: await ticketFor(place) })), heard);

export const undiciEventSourceWithTicket: Client = async (place, heard) =>
  byEventSource(new UndiciEventSource(address(place, { ticket: await ticketFor(place) })), heard);

/** With a token in its URL, which is good for more than one connection; it comes again at once. */
export const undiciEventSourceWithToken: Client = (place, heard) =>
  byEventSource(new UndiciEventSource(address(place, { token: place.person.token }), { node: { reconnectionTime: 1 } }), heard);

export const wsWith =
  (channel: "bearer" | "cookie"): Client =>
  (place, heard) =>
    byWs(new WebSocket(webSocketAddress(place), { headers: channels[channel](place.person) }), heard);

export const wsWithTicket: Client = async (place, heard) =>
  byWs(new WebSocket(webSocketAddress(place, { ticket: await ticketFor(place) })), heard);

export const undiciWebSocketWithTicket: Client = async (place, heard = new Hearing()) => {
  const socket = new UndiciWebSocket(webSocketAddress(place, { ticket: await ticketFor(place) }));
  socket.addEventListener("message", ({ data }) => heard.hearMessage(data));
  const over = new Promise<void>((resolve) => socket.addEventListener("close", () => resolve()));
  await new Promise<void>((resolve, reject) => {
    socket.addEventListener("open", () => resolve());
    socket.addEventListener("error", ({ message }) => reject(new Error(message)));
  });
  return { heard, over, say: (message) => socket.send(JSON.stringify(message)), leave: () => socket.close() };
};

/** What a page does that reads an answer piece by piece. */
export const fetchStreaming: Client = async (place, heard = new Hearing()) => {
  const controller = new AbortController();
  const headers = { ...channels.bearer(place.person), accept: "text/event-stream" };
  const response = await fetch(address(place), { headers, signal: controller.signal });
  if (response.status !== 200) throw new Error(`chat/stream answered ${response.status}`);
  return { heard, over: readEvents(response, heard), say: cannotSay, leave: () => controller.abort() };
};

/** Reads server-sent events until they end, break off or are left. */
export async function readEvents(response: Response, heard: Hearing): Promise<void> {
  const push = eventParser((type, id, data) => heard.hearEvent(type, id, data));
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      push(decoder.decode(value, { stream: true }));
    }
  } catch (error) {
    const gone = error instanceof Error && (error.name === "AbortError" || error.message === "terminated");
    if (!gone) throw error;
  }
}

export const hasCurl = spawnSync("curl", ["--version"]).status === 0;

/** As it is documented: `curl -N`. What it says besides tells when the stream is open: it holds back an answer's head until there is more. */
export const curl: Client = async (place, heard = new Hearing()) => {
  const header = Object.entries(channels.bearer(place.person)).map((pair) => pair.join(": "));
  const child = spawn("curl", ["-N", "-sS", "-v", "--noproxy", "*", "-H", ...header, address(place)]);
  const push = eventParser((type, id, data) => heard.hearEvent(type, id, data));
  child.stdout.setEncoding("utf8").on("data", push);
  let told = "";
  const over = new Promise<void>((resolve) => child.once("close", () => resolve()));
  await new Promise<void>((resolve, reject) => {
    child.once("close", (code) => reject(new Error(`curl ended with ${code}: ${told}`)));
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      told += text;
      if (told.includes("< HTTP/1.1 200 ")) resolve();
    });
  });
  return { heard, over, say: cannotSay, leave: () => child.kill() };
};

/** Says where it is once the stream is open, and not in the address. */
export const wsThatResumes: Client = async ({ after, ...place }, heard) => {
  const watching = await wsWith("bearer")(place, heard);
  if (after !== undefined) watching.say({ resume: after });
  return watching;
};

/** Every client, each with what it can say who it is by. */
export const clients: [what: string, client: Client][] = [
  ["eventsource with a bearer", eventSourceWithHeader],
  ["eventsource with a ticket", eventSourceWithTicket],
  ["undici's EventSource with a ticket", undiciEventSourceWithTicket],
  ["undici's EventSource with a token", undiciEventSourceWithToken],
  ["ws with a bearer", wsWith("bearer")],
  ["ws with the cookie", wsWith("cookie")],
  ["ws with a ticket", wsWithTicket],
  ["undici's WebSocket with a ticket", undiciWebSocketWithTicket],
  ["fetch with a bearer", fetchStreaming],
  ...(hasCurl ? [["curl -N with a bearer", curl] as [string, Client]] : []),
];

/** Both have the interface of the browser's. It comes again by itself, so it is over when it has given up. */
async function byEventSource(source: EventSource | UndiciEventSource, heard = new Hearing()): Promise<Watching> {
  const target: EventTarget = source;
  for (const name of ["message", ...EVENTS]) {
    target.addEventListener(name, (event) => {
      const { type, lastEventId, data } = event as MessageEvent<string>;
      heard.hearEvent(type, lastEventId, data);
    });
  }
  let leave = () => {};
  const gaveUp = new Promise<void>((resolve) => {
    target.addEventListener("error", () => {
      if (source.readyState === source.CLOSED) resolve();
    });
    leave = () => {
      source.close();
      resolve();
    };
  });
  const open = new Promise<"open">((resolve) => target.addEventListener("open", () => resolve("open"), { once: true }));
  if ((await Promise.race([open, gaveUp])) !== "open") throw new Error("the EventSource was refused");
  return { heard, over: gaveUp, say: cannotSay, leave };
}

async function byWs(socket: WebSocket, heard = new Hearing()): Promise<Watching> {
  socket.on("message", (data: Buffer) => heard.hearMessage(data.toString("utf8")));
  const over = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  socket.on("error", () => {});
  return { heard, over, say: (message) => socket.send(JSON.stringify(message)), leave: () => socket.close() };
}

/** Watches on, whatever happens to its connections: as soon as one is over it comes again, and says what it has seen. */
export function comingAgain(client: Client, place: Place, heard = new Hearing()) {
  let left = false;
  let watching: Watching | null = null;
  let connections = 0;
  const watchOn = async () => {
    while (!left) {
      const after = heard.lastId;
      // While the line is cut nobody gets through, for a ticket or for the stream.
      watching = await client({ ...place, ...(after !== null && { after }) }, heard).catch(() => null);
      if (!watching) continue;
      connections++;
      heard.changed();
      if (left) watching.leave();
      await watching.over;
    }
  };
  const over = watchOn();
  return {
    heard,
    get connections() {
      return connections;
    },
    leave: async () => {
      left = true;
      watching?.leave();
      await over;
    },
  };
}
