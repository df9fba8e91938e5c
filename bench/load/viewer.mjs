/**
 * Somebody who watches a stream, on a raw socket: that their reading costs little is what lets a thousand of them be read by
 * one process. Frames are told apart by their empty line, in chunks or not.
 */
import net from "node:net";

/** The line break of HTTP, which no frame has within it: a chunk's length or the head ends with one. */
const BEFORE_FRAME = "\r\n";

/**
 * Resolves when the answer has begun.
 * @param {{ port: number, path: string, headers?: Record<string, string> }} stream
 * @param {(frame: string, nowNs: bigint) => void} heard  a frame without its empty line
 * @returns {Promise<{ socket: net.Socket, close: () => void }>}
 */
export function openViewer({ port, path, headers = {} }, heard) {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: "127.0.0.1", noDelay: true });
    let rest = "";
    let begun = false;
    socket.setEncoding("latin1");
    socket.setTimeout(30_000, () => begun || socket.destroy(new Error(`no stream from port ${port} in 30 s`)));
    socket.on("error", (error) => (begun ? undefined : reject(error)));
    socket.on("close", () => (begun ? undefined : reject(new Error(`port ${port} closed a stream before it began`))));
    socket.on("data", (piece) => {
      const nowNs = process.hrtime.bigint();
      rest += piece;
      if (!begun && rest.includes("\r\n\r\n")) {
        begun = rest.startsWith("HTTP/1.1 200 ");
        if (!begun) return void socket.destroy(new Error(`a stream was refused: ${rest.slice(0, 500)}`));
        resolve({ socket, close: () => socket.destroy() });
      }
      let from = 0;
      for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n", from)) {
        const block = rest.slice(from, end);
        const start = block.lastIndexOf(BEFORE_FRAME);
        heard(start < 0 ? block : block.slice(start + BEFORE_FRAME.length), nowNs);
        from = end + 2;
      }
      rest = rest.slice(from);
    });
    const lines = Object.entries({ host: "127.0.0.1", accept: "text/event-stream", ...headers });
    socket.write(`GET ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`);
  });
}

/** A sign of life, or of where the stream begins: it tells of no message. */
export const isPing = (/** @type {string} */ frame) => frame.includes("event: ping\n");

/**
 * What a frame says.
 * @returns {{ id: string | null, event: string | null, data: any }}
 */
export function parseFrame(/** @type {string} */ frame) {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const line of frame.split("\n")) {
    const at = line.indexOf(": ");
    fields[line.slice(0, at)] = line.slice(at + 2);
  }
  return { id: fields.id ?? null, event: fields.event ?? null, data: JSON.parse(fields.data ?? "null") };
}
