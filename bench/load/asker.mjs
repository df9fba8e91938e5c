import http from "node:http";

/**
 * Asks one server, on connections that are kept.
 * @param {{ port: number, headers?: Record<string, string>, connections?: number }} server
 */
export function createAsker({ port, headers: common = {}, connections = 64 }) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: connections });
  /**
   * @param {string} path
   * @param {string} body
   * @param {Record<string, string>} [more]  headers
   * @param {(piece: string, nowNs: bigint) => void} [heard]  the answer as it comes
   * @returns {Promise<{ status: number, text: string, ms: number }>} status 0 where there was no answer
   */
  const ask = (path, body, more = {}, heard) =>
    new Promise((resolve) => {
      const startedAt = performance.now();
      let text = "";
      const finish = (/** @type {number} */ status) => resolve({ status, text, ms: performance.now() - startedAt });
      const headers = {
        "content-type": "application/json",
        "content-length": Buffer.byteLength(body),
        ...common,
        ...more,
      };
      const request = http.request({ host: "127.0.0.1", port, path, method: "POST", agent, headers }, (response) => {
        response.setEncoding("utf8");
        response.on("data", (piece) => {
          text += piece;
          heard?.(piece, process.hrtime.bigint());
        });
        response.on("end", () => finish(response.statusCode ?? 0));
        response.on("error", () => finish(0));
      });
      request.setTimeout(60_000, () => request.destroy(new Error("no answer in 60 s")));
      request.on("error", (error) => {
        text = String(error);
        finish(0);
      });
      request.end(body);
    });
  return { ask, close: () => agent.destroy() };
}
