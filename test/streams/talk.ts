import { once } from "node:events";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { connect, type Socket } from "node:net";
import { WebSocket } from "ws";
import * as z from "zod";
import { user } from "../../functions/user/endpoints.ts";
import { anyone, signedIn } from "../../lib/access.ts";
import { endpoint, type FunctionSpec, type Guard, type Reply, stream } from "../../lib/http/endpoint.ts";
import { ApiError } from "../../lib/http/error.ts";
import type { Viewer } from "../../lib/http/viewer.ts";
import type { StreamLimits } from "../../lib/http/viewers.ts";
import { type EventRow, search } from "../../lib/repo/events.ts";
import * as tickets from "../../lib/repo/tickets.ts";
import { mintToken } from "../../lib/token.ts";
import { type App, type Person, startApp } from "../support/app.ts";
import { until } from "../support/relay.ts";

/** A viewer as the hub got it, and what became of it. */
export type Seat = { viewer: Viewer; room: string | undefined; detached: number };

/** A function with streams whose other side is in the test's hand, and the product that serves it. */
export type Talk = {
  app: App;
  alice: Person;
  seats: Seat[];
  /** What `open` does before it attaches; reset by `quiet`. */
  onOpen: (viewer: Viewer) => unknown;
  onDetach: () => void;
  /** What the endpoint `talk.answer` does. */
  onAnswer: (reply: Reply) => unknown;
  /** The seat of the next viewer that is attached. */
  seat(): Promise<Seat>;
  ticket(person?: Person, lifeMs?: number): Promise<string>;
  event(id: string | null | undefined): ReturnType<typeof findEvent>;
  /** Waits until everyone has left. */
  empty(): Promise<void>;
  quiet(): void;
  close(): Promise<void>;
};

const room = z.object({ room: z.string().max(64).optional() });
const never: Guard<unknown, { caller: null }> = {
  name: "never",
  admit: () => {
    throw new ApiError("forbidden", { message: "Nobody may watch this." });
  },
};

export const talkFunction = (talk: Pick<Talk, "seats" | "onOpen" | "onDetach" | "onAnswer">) => {
  const open = async ({ viewer, input }: { viewer: Viewer; input: { room?: string | undefined } }) => {
    await talk.onOpen(viewer);
    const seat = { viewer, room: input.room, detached: 0 };
    talk.seats.push(seat);
    return () => {
      seat.detached++;
      talk.onDetach();
    };
  };
  const plain = { input: room, output: z.object({ caller: z.string().nullable() }) };
  return {
    name: "talk",
    endpoints: [
      stream({ name: "talk.stream", summary: "Watch", route: "GET|POST /talk/stream", access: signedIn, input: room, open }),
      stream({ name: "talk.open", summary: "Watch", route: "GET /talk/open", access: anyone, input: room, open }),
      stream({
        name: "talk.post",
        summary: "Watch",
        route: "POST /talk/post",
        access: signedIn,
        input: room,
        bodyLimit: 100,
        open,
      }),
      stream({ name: "talk.never", summary: "Watch", route: "GET /talk/never", access: never, input: room, open }),
      stream({ name: "talk.shared", summary: "Watch", route: "GET /talk/shared", access: signedIn, input: room, open }),
      endpoint({ ...plain, name: "talk.share", summary: "Say", route: "POST /talk/shared", access: anyone, run: callerOf }),
      endpoint({ ...plain, name: "talk.plain", summary: "Say", route: "GET|POST /talk/plain", access: signedIn, run: callerOf }),
      endpoint({
        name: "talk.answer",
        summary: "Answer",
        route: "POST /talk/answer",
        access: signedIn,
        input: room,
        output: z.object({ said: z.string() }),
        streams: true,
        run: async ({ reply }) => ({ said: String((await talk.onAnswer(reply)) ?? "done") }),
      }),
    ],
  } as const satisfies FunctionSpec;
};
const callerOf = ({ grant }: { grant: { caller: { username: string } | null } }) => ({ caller: grant.caller?.username ?? null });

export type TalkOptions = {
  env?: Record<string, string>;
  limits?: Partial<StreamLimits>;
  authorizeEveryMs?: number;
  now?: () => number;
  alone?: boolean;
};

export async function startTalk({ env = {}, alone = false, ...sources }: TalkOptions = {}): Promise<Talk> {
  const nothing = () => {};
  const talk: Talk = {
    seats: [],
    onOpen: nothing,
    onDetach: nothing,
    onAnswer: nothing,
    seat: async () => {
      const taken = talk.seats.length;
      await until(() => talk.seats.length > taken);
      return talk.seats[taken] as Seat;
    },
    ticket: async (person = talk.alice, lifeMs = 60_000) => {
      const { store, now } = talk.app.deps;
      const { token, hash } = mintToken("ticket");
      const session = (await talk.app.call("/user/session", { token: person.token })).json.session.id;
      await tickets.insert(store, { hash, sessionId: session, expiresAt: new Date(now() + lifeMs) });
      return token;
    },
    event: (id: string | null | undefined) => findEvent(talk.app, id),
    empty: () => until(() => talk.seats.every(({ detached }) => detached > 0)),
    quiet: () => {
      Object.assign(talk, { onOpen: nothing, onDetach: nothing, onAnswer: nothing });
    },
    close: () => talk.app.close(),
  } as unknown as Talk;
  const functions = alone ? [talkFunction(talk)] : [user, talkFunction(talk)];
  talk.app = await startApp(env, { functions, ...sources });
  if (!alone) talk.alice = await talk.app.person();
  return talk;
}

/** The audit row of a request, once it has its outcome. */
async function findEvent({ deps: { store } }: App, id: string | null | undefined) {
  let event: EventRow | undefined;
  await until(async () => {
    [event] = await search(store, { ids: [id ?? ""], limit: 1 });
    return event?.endedAt != null;
  });
  return event as EventRow;
}

export const bearer = ({ token }: Person) => ({ authorization: `Bearer ${token}` });

/** Somebody who watches by server-sent events. */
export type Watcher = {
  status: number;
  headers: IncomingMessage["headers"];
  id: string;
  /** Everything after the head. */
  text(): string;
  /** Waits until the text is so; answers it. */
  until(is: string | ((text: string) => boolean)): Promise<string>;
  /** How it ended. */
  over: Promise<"ended" | "cut">;
  socket: Socket;
  leave(): void;
};
export type Ask = { method?: string; headers?: Record<string, string>; body?: string };

/** Asks for a path on a connection of its own, and hears what comes. */
export async function watch(url: string, { method = "GET", headers = {}, body }: Ask = {}): Promise<Watcher> {
  const req = httpRequest(url, { method, headers, agent: false });
  req.end(body);
  const [res] = (await once(req, "response")) as [IncomingMessage];
  let text = "";
  res.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  const over = new Promise<"ended" | "cut">((resolve) => {
    res.once("end", () => resolve("ended"));
    res.once("close", () => resolve("cut"));
  });
  res.on("error", () => {});
  req.on("error", () => {});
  return {
    status: res.statusCode ?? 0,
    headers: res.headers,
    id: String(res.headers["x-proxy-gpt-request-id"]),
    text: () => text,
    until: async (is) => {
      await until(() => (typeof is === "string" ? text.includes(is) : is(text)));
      return text;
    },
    over,
    socket: res.socket,
    leave: () => res.destroy(),
  };
}

/** A WebSocket that is open; what it hears is kept. */
export async function converse(url: string, headers: Record<string, string> = {}, protocols: string[] = []) {
  const socket = new WebSocket(url.replace("http", "ws"), protocols, { headers });
  const heard: string[] = [];
  socket.on("message", (data: Buffer, isBinary) => heard.push(isBinary ? `binary ${data.length}` : data.toString("utf8")));
  socket.on("error", () => {});
  const closed = new Promise<number>((resolve) => {
    socket.once("close", resolve);
  });
  const [answer] = (await once(socket, "upgrade")) as [IncomingMessage];
  if (socket.readyState !== WebSocket.OPEN) await once(socket, "open");
  const hears = (is: (heard: string[]) => boolean) => until(() => is(heard));
  return { socket, answer, heard, hears, closed, id: String(answer.headers["x-proxy-gpt-request-id"]) };
}

/** The answer to an upgrade that is not taken. */
export async function refused(url: string, headers: Record<string, string> = {}, protocols: string[] = []) {
  const socket = new WebSocket(url.replace("http", "ws"), protocols, { headers });
  socket.on("error", () => {});
  const [, answer] = (await once(socket, "unexpected-response")) as [unknown, IncomingMessage];
  const text = (await answer.toArray()).join("");
  return { status: answer.statusCode ?? 0, headers: answer.headers as Record<string, string>, text, json: JSON.parse(text) };
}

/** A connection that asks for a stream and reads nothing of it but the head, until told to. */
export async function stalling(
  url: string,
  path: string,
  headers: Record<string, string>,
  more: string[] = [],
  method = "GET",
): Promise<Socket> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on("error", () => {});
  const lines = [`${method} ${path} HTTP/1.1`, "Host: h", ...Object.entries(headers).map((pair) => pair.join(": ")), ...more];
  socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  await once(socket, "readable");
  return socket;
}
