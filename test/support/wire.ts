import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export type Wire = {
  port: number;
  /** The same address, through the wire: `url("postgres://postgres@127.0.0.1:5432/chat")`. */
  url(target: string): string;
  /** Resets every open connection, on both sides. New connections are still served. */
  cut(): void;
  /** While on, a new connection is reset as soon as it is accepted. Open ones live on. */
  refuse(on: boolean): void;
  /** From now on, every chunk of bytes is held this long, in both directions and in order. */
  delay(ms: number): void;
  /**
   * While on, connections are accepted and their bytes, like those of open connections, go nowhere. A connection that has
   * lost anything stays silent after `drop(false)`, as its stream has a hole; only `cut()` ends it.
   */
  drop(on: boolean): void;
  close(): Promise<void>;
};

/** A TCP relay on loopback, so that a test can break the line to a store or an upstream. */
export async function startWire(targetPort: number): Promise<Wire> {
  const sockets = new Set<Socket>();
  const line: Line = { refused: false, dropped: false, delayMs: 0 };

  const server = createServer({ allowHalfOpen: true }, (client) => {
    keep(client);
    if (line.refused) client.resetAndDestroy();
    else if (line.dropped) client.resume();
    else relay(client, keep(connect({ host: "127.0.0.1", port: targetPort, allowHalfOpen: true })), line);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;

  const keep = (socket: Socket) => {
    sockets.add(socket);
    return socket.on("error", () => {}).on("close", () => sockets.delete(socket));
  };
  const cut = () => {
    for (const socket of sockets) socket.resetAndDestroy();
  };
  return {
    port,
    url: (target) => {
      const url = new URL(target);
      url.hostname = "127.0.0.1";
      url.port = String(port);
      return url.href;
    },
    cut,
    refuse: (on) => {
      line.refused = on;
    },
    delay: (ms) => {
      line.delayMs = ms;
    },
    drop: (on) => {
      line.dropped = on;
    },
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      cut();
      await closed;
    },
  };
}

type Line = { refused: boolean; dropped: boolean; delayMs: number };

const heldBytesLimit = 1 << 20;

function relay(client: Socket, target: Socket, line: Line): void {
  let silent = false;
  const lost = () => {
    silent ||= line.dropped;
    return silent;
  };

  const carry = (from: Socket, to: Socket) => {
    let heldBytes = 0;
    let last = Promise.resolve();
    const inOrder = (deliver: () => void) => {
      const dueMs = Date.now() + line.delayMs;
      last = last.then(async () => {
        const waitMs = dueMs - Date.now();
        if (waitMs > 0) await sleep(waitMs, undefined, { ref: false });
        deliver();
      });
    };
    const passed = (bytes: number) => {
      heldBytes -= bytes;
      if (heldBytes <= heldBytesLimit) from.resume();
    };
    from.on("data", (chunk) => {
      heldBytes += chunk.length;
      if (heldBytes > heldBytesLimit) from.pause();
      inOrder(() => (lost() ? passed(chunk.length) : to.write(chunk, () => passed(chunk.length))));
    });
    from.on("end", () => inOrder(() => lost() || to.end()));
    from.on("error", () => lost() || to.resetAndDestroy());
  };
  carry(client, target);
  carry(target, client);
}
