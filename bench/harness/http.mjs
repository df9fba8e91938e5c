import http from "node:http";
import net from "node:net";

/**
 * One request on a connection of its own.
 * @param {{ port: number, path: string, method?: string, headers?: Record<string, string>, body?: string, timeoutMs?: number }} options
 * @returns {Promise<{ status: number, text: string }>}
 */
export function call({ port, path, method = "GET", headers = {}, body, timeoutMs = 10_000 }) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: "127.0.0.1", port, path, method, headers, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (piece) => {
        text += piece;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
      response.on("error", reject);
    });
    request.setTimeout(timeoutMs, () => request.destroy(new Error(`no answer from port ${port} in ${timeoutMs} ms`)));
    request.on("error", reject);
    request.end(body);
  });
}

/** A port of 127.0.0.1 that nobody listens on just now. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = /** @type {net.AddressInfo} */ (server.address());
      server.close(() => resolve(port));
    });
  });
}
