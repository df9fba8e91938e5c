import { Duplex } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import { expect, test } from "vitest";
import { Frame } from "../../lib/http/frame.ts";
import { SseViewer } from "../../lib/http/sse.ts";
import { SocketViewer } from "../../lib/http/viewer.ts";

class Bare extends SocketViewer {
  readonly status = 200;
  begin(): void {}
  open = (socket: Duplex) => this.start(socket);
  beat = SseViewer.prototype.beat;
  finish(): void {}
  protected encode(frame: Frame): Buffer {
    return frame.sse;
  }
}

test("a sign of life on a connection that is almost full swallows no frame", async () => {
  const got: Buffer[] = [];
  const held: (() => void)[] = [];
  let stuck = true;
  const write = (chunk: Buffer, _: unknown, done: () => void) => {
    got.push(chunk);
    if (stuck) held.push(done);
    else done();
  };
  const socket = new Duplex({ read() {}, write });
  const viewer = new Bare(null);
  viewer.open(socket);
  const frame = (n: number, size: number) => new Frame(JSON.stringify({ n, x: "x".repeat(size) }));
  let n = 0;
  const say = (size: number) => viewer.send(frame(++n, size));
  while (socket.writableLength < 65_000) say(400);
  await turn();
  expect(say(65_536 - socket.writableLength - frame(100, 0).sse.length - 1)).toBe(true);
  await turn();
  viewer.beat();
  await turn();
  say(1);
  const drained = new Promise<void>((resolve) => {
    viewer.onDrain = resolve;
  });
  stuck = false;
  for (const done of held) done();
  await drained;
  say(2);
  await turn();
  const events = Buffer.concat(got)
    .toString()
    .split("\n\n")
    .filter((it) => it.includes('"n"'));
  expect(events.map((it) => JSON.parse(it.slice(6)).n)).toEqual(Array.from({ length: n }, (_, at) => at + 1));
});
