/** Closed loop with wrk: every connection sends its next request as soon as the last was answered. */
import fs from "node:fs";
import path from "node:path";
import { run } from "../harness/processes.mjs";
import { CHAT_PATH, chatBody } from "./chat.mjs";

/**
 * @param {{ port: number, headers: Record<string, string>, connections: number, seconds: number, folder: string,
 *   cpu: number | null, stream?: boolean }} options
 * @returns {Promise<{ requests: number, failed: number, perSecond: number }>}
 */
export async function closedLoop({ port, headers, connections, seconds, folder, cpu, stream = false }) {
  const script = path.join(folder, "wrk.lua");
  const lines = Object.entries({ "content-type": "application/json", ...headers }).map(
    ([name, value]) => `wrk.headers[${JSON.stringify(name)}] = ${JSON.stringify(value)}`,
  );
  fs.writeFileSync(script, ['wrk.method = "POST"', `wrk.body = [==[${chatBody({ stream })}]==]`, ...lines].join("\n"));
  const url = `http://127.0.0.1:${port}${CHAT_PATH}`;
  const limits = ["-t1", `-c${connections}`, `-d${seconds}s`, "--timeout", "10s"];
  return readWrk(await run("wrk", [...limits, "-s", script, url], { cpu }));
}

function readWrk(/** @type {string} */ report) {
  const number = (/** @type {RegExp} */ pattern) => Number(pattern.exec(report)?.[1] ?? 0);
  const socketErrors = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(report)?.slice(1) ?? [];
  return {
    requests: number(/(\d+) requests in/),
    perSecond: number(/Requests\/sec:\s+([\d.]+)/),
    failed: number(/Non-2xx or 3xx responses: (\d+)/) + socketErrors.reduce((sum, count) => sum + Number(count), 0),
  };
}
