import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { startWire } from "./wire.ts";

const echo = createServer((socket) => socket.on("error", () => {}).pipe(socket)).unref();
/** One event loop serves this and the wires: when it has answered directly, a wire has read what was sent before. */
const echoPort = () => (echo.address() as AddressInfo).port;

beforeAll(async () => {
  echo.listen(0, "127.0.0.1");
  await once(echo, "listening");
});

test("bytes and the end of a stream pass in both directions", async () => {
  const wire = await newWire();
  const socket = await dial(wire.port);
  const sent = Buffer.alloc(5_000_000, "proxy");
  socket.end(sent);
  const received = Buffer.concat(await socket.toArray());
  expect(received.equals(sent)).toBe(true);
});

test("an address keeps all but its host and port", async () => {
  const wire = await newWire();
  expect(wire.url("postgres://me:secret@db.example:5432/chat?sslmode=disable")).toBe(
    `postgres://me:secret@127.0.0.1:${wire.port}/chat?sslmode=disable`,
  );
});

test("a cut resets open connections and leaves new ones alone", async () => {
  const wire = await newWire();
  const socket = await dial(wire.port);
  await say(socket, "before");
  const failed = errorCode(socket);
  wire.cut();
  expect(await failed).toBe("ECONNRESET");
  expect(await say(await dial(wire.port), "after")).toBe("after");
});

test("a refused connection is reset while open ones live on", async () => {
  const wire = await newWire();
  const open = await dial(wire.port);
  await say(open, "before");
  wire.refuse(true);
  expect(await errorCode(connect(wire.port, "127.0.0.1"))).toBe("ECONNRESET");
  expect(await say(open, "still here")).toBe("still here");
  wire.refuse(false);
  expect(await say(await dial(wire.port), "again")).toBe("again");
});

test("a target that is down looks like a reset", async () => {
  const unused = await newWire();
  await unused.close();
  const wire = await startWire(unused.port);
  onTestFinished(() => wire.close());
  expect(await errorCode(connect(wire.port, "127.0.0.1"))).toBe("ECONNRESET");
});

test("delayed bytes arrive late, in both directions", async () => {
  const wire = await newWire();
  const socket = await dial(wire.port);
  wire.delay(40);
  const startedAt = performance.now();
  expect(await say(socket, "hello")).toBe("hello");
  // Timers may fire a millisecond early.
  expect(performance.now() - startedAt).toBeGreaterThan(77);
});

test("bytes sent after a delay ended do not overtake delayed ones", async () => {
  const wire = await newWire();
  const socket = await dial(wire.port);
  const direct = await dial(echoPort());
  wire.delay(40);
  socket.write("late ");
  await say(direct, "tick");
  wire.delay(0);
  socket.end("early");
  expect(Buffer.concat(await socket.toArray()).toString()).toBe("late early");
});

test("a connection that lost bytes stays silent until it is cut", async () => {
  const wire = await newWire();
  const socket = await dial(wire.port);
  await say(socket, "before");
  let heard = "";
  socket.on("data", (chunk) => {
    heard += chunk;
  });
  const direct = await dial(echoPort());
  wire.drop(true);
  socket.write("lost");
  const swallowed = await dial(wire.port);
  await say(direct, "tick");
  wire.drop(false);
  socket.write("lost too");
  expect(await say(await dial(wire.port), "new")).toBe("new");
  await say(direct, "tock");
  expect(heard).toBe("");
  const failed = Promise.all([errorCode(socket), errorCode(swallowed)]);
  wire.cut();
  expect(await failed).toEqual(["ECONNRESET", "ECONNRESET"]);
});

async function newWire() {
  const wire = await startWire(echoPort());
  onTestFinished(() => wire.close());
  return wire;
}

async function dial(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  onTestFinished(() => void socket.destroy());
  return socket;
}

/** Sends a text and resolves with as many bytes of the answer. */
async function say(socket: Socket, text: string): Promise<string> {
  let answer = "";
  const answered = new Promise<string>((resolve) => {
    const listen = (chunk: Buffer) => {
      answer += chunk;
      if (answer.length < text.length) return;
      socket.off("data", listen);
      resolve(answer);
    };
    socket.on("data", listen);
  });
  socket.write(text);
  return answered;
}

async function errorCode(socket: Socket): Promise<string | undefined> {
  const [error] = (await once(socket, "error").catch((thrown: NodeJS.ErrnoException) => [thrown])) as [NodeJS.ErrnoException];
  return error.code;
}
