/**
 * The barest honest relay on Node: node:http in, undici's `dispatch` out, the key exchanged, backpressure, and a client's
 * hang-up that aborts the upstream call. No authentication, no record, no metering: what a relay costs before it is a product.
 *
 *   PORT=8080 UPSTREAM=http://127.0.0.1:9100 node relay.mjs
 */
import http from "node:http";
import { Pool } from "undici";

/**
 * @typedef {import("undici").Dispatcher.DispatchHandler} Handler
 * @typedef {import("undici").Dispatcher.DispatchController} Controller
 */

const { PORT, UPSTREAM = "" } = process.env;
const pool = new Pool(UPSTREAM, { connections: 512, pipelining: 1 });
const HEADERS = { "content-type": "application/json", authorization: "Bearer sk-upstream" };

http
  .createServer((request, response) => {
    /** @type {Buffer[]} */
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => relay(request, response, pieces));
  })
  .listen({ port: Number(PORT), host: "127.0.0.1", backlog: 4096 });

/**
 * @param {http.IncomingMessage} request
 * @param {http.ServerResponse} response
 * @param {Buffer[]} pieces
 */
function relay({ url = "/", method = "GET" }, response, pieces) {
  const body = pieces.length > 1 ? Buffer.concat(pieces) : (pieces[0] ?? null);
  const path = url;
  const options = { path, method: /** @type {import("undici").Dispatcher.HttpMethod} */ (method), headers: HEADERS, body };
  pool.dispatch(options, new Answer(response));
}

/** @implements {Handler} */
class Answer {
  /** @type {Controller | null} */
  #controller = null;
  #over = false;
  #response;

  /** @param {http.ServerResponse} response */
  constructor(response) {
    this.#response = response;
    response.once("close", () => {
      if (this.#over) return;
      this.#over = true;
      this.#controller?.abort(new Error("the client is gone"));
    });
  }

  /** @param {Controller} controller */
  onRequestStart(controller) {
    this.#controller = controller;
    if (this.#over) controller.abort(new Error("the client is gone"));
  }

  /**
   * @param {Controller} _controller
   * @param {number} status
   * @param {import("node:http").IncomingHttpHeaders} headers
   */
  onResponseStart(_controller, status, headers) {
    /** @type {http.OutgoingHttpHeaders} */
    const kept = { "content-type": headers["content-type"] ?? "" };
    if (headers["content-length"] !== undefined) kept["content-length"] = headers["content-length"];
    this.#response.writeHead(status, kept);
  }

  /**
   * @param {Controller} controller
   * @param {Buffer} chunk
   */
  onResponseData(controller, chunk) {
    if (this.#response.write(chunk)) return;
    controller.pause();
    this.#response.once("drain", () => controller.resume());
  }

  onResponseEnd() {
    this.#over = true;
    this.#response.end();
  }

  onResponseError() {
    if (this.#over) return;
    this.#over = true;
    if (this.#response.headersSent) this.#response.destroy();
    else this.#response.writeHead(502).end();
  }
}
