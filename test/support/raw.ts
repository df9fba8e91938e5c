import { connect, type Socket } from "node:net";

/** An answer as it came over the wire. */
export type RawAnswer = {
  status: number;
  reason: string;
  /** Names in small letters; a repeated header's values are joined with a comma and a space. */
  headers: Record<string, string>;
  rawHeaders: [name: string, value: string][];
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test asserts what the JSON is.
  json: any;
};

/** The bytes of a request: a line each, then an empty one, then the body. */
export function request(lines: readonly string[], body: string | Buffer = ""): Buffer {
  return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), Buffer.from(body)]);
}

/** Sends bytes as they are, piece by piece, and answers everything that came back until the server closed the connection. */
export async function send(url: string, ...pieces: (string | Buffer)[]): Promise<RawAnswer[]> {
  const socket = await open(url);
  const arrived = everything(socket);
  for (const piece of pieces) await write(socket, piece);
  return answersIn(await arrived);
}

/** The same where exactly one answer is expected. Ask for `Connection: close` where the server would keep the connection. */
export async function ask(url: string, ...pieces: (string | Buffer)[]): Promise<RawAnswer> {
  const [answer, ...more] = await send(url, ...pieces);
  if (!answer || more.length > 0) throw new Error(`expected one answer, got ${more.length + (answer ? 1 : 0)}`);
  return answer;
}

/** A connection that stays open on our side when the server ends its own. */
export async function open(url: string): Promise<Socket> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      // A server that refuses early may reset a connection on which we still write; what it said has arrived.
      socket.on("error", () => {});
      resolve(socket);
    });
  });
}

/** Resolves when the bytes are with the kernel, or can no longer be sent. */
export const write = (socket: Socket, piece: string | Buffer): Promise<void> =>
  new Promise((resolve) => void socket.write(piece, "latin1", () => resolve()));

/** Everything that arrives until the server ends its side; then ours is ended too. */
export function everything(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  return new Promise((resolve) => {
    socket.on("data", (chunk) => void chunks.push(chunk));
    const done = () => {
      socket.destroy();
      resolve(Buffer.concat(chunks));
    };
    socket.once("end", done);
    socket.once("close", done);
  });
}

/** The answers to be found in bytes: with a length, in chunks, or up to the end. Interim ones (100) are left out. */
export function answersIn(bytes: Buffer, method = "GET"): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let rest = bytes.toString("latin1");
  while (rest.length > 0) {
    const end = rest.indexOf("\r\n\r\n");
    if (end < 0) throw new Error(`not an answer: ${rest.slice(0, 200)}`);
    const [first = "", ...lines] = rest.slice(0, end).split("\r\n");
    const [, status = "", reason = ""] = /^HTTP\/1\.1 (\d{3}) (.*)$/.exec(first) ?? [];
    if (status === "") throw new Error(`not a status line: ${first}`);
    const rawHeaders = lines.map((line): [string, string] => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    });
    const headers = Object.fromEntries(new Headers(rawHeaders));
    rest = rest.slice(end + 4);
    if (status.startsWith("1")) continue;
    let body = "";
    if (method !== "HEAD" && status !== "204" && status !== "304") [body, rest] = bodyOf(headers, rest);
    const text = Buffer.from(body, "latin1").toString("utf8");
    answers.push({ status: Number(status), reason, headers, rawHeaders, text, json: parsed(text) });
  }
  return answers;
}

function bodyOf(headers: Record<string, string>, rest: string): [body: string, rest: string] {
  if (headers["transfer-encoding"] === "chunked") {
    let body = "";
    let left = rest;
    for (;;) {
      const line = left.indexOf("\r\n");
      const size = Number.parseInt(left.slice(0, line), 16);
      if (line < 0 || Number.isNaN(size)) throw new Error("an answer in chunks was cut");
      if (size === 0) return [body, left.slice(line + 4)];
      body += left.slice(line + 2, line + 2 + size);
      left = left.slice(line + 2 + size + 2);
    }
  }
  const length = Number(headers["content-length"] ?? rest.length);
  if (rest.length < length) throw new Error("an answer was cut");
  return [rest.slice(0, length), rest.slice(length)];
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
