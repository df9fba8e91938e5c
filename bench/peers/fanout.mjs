/**
 * The usual first version of a chat's fan-out: what is said is written as JSON for each viewer anew, with `res.write`, whether
 * or not they read it. It stores nothing, asks nobody who they are, and calls no model.
 *
 *   PORT=8080 node fanout.mjs
 *   GET /stream → server-sent events · POST /say { id, event, data } · GET /
 */
import http from "node:http";

/** @type {Set<http.ServerResponse>} */
const viewers = new Set();

http
  .createServer((request, response) => {
    if (request.url === "/stream") return watch(response);
    if (request.method === "GET") return response.end();
    let body = "";
    request.setEncoding("utf8");
    request.on("data", (piece) => {
      body += piece;
    });
    request.on("end", () => {
      say(JSON.parse(body));
      response.writeHead(204).end();
    });
  })
  .listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 });

function watch(/** @type {http.ServerResponse} */ response) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  response.flushHeaders();
  viewers.add(response);
  response.on("close", () => viewers.delete(response));
}

function say(/** @type {{ id: string | null, event: string | null, data: unknown }} */ { id, event, data }) {
  for (const response of viewers) {
    const named = event === null ? "" : `event: ${event}\n`;
    response.write(`${id === null ? "" : `id: ${id}\n`}${named}data: ${JSON.stringify(data)}\n\n`);
  }
}
