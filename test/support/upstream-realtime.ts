import { type IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { WebSocket } from "ws";
import type { Handler } from "./upstream.ts";
import { sendError } from "./upstream-answers.ts";

/** The handler that says no, or null for an upgrade that is welcome. */
export function refuseUpgrade(target: string): Handler | null {
  const [path = "", query] = target.split("?", 2);
  if (!path.startsWith("/v1/realtime")) return (_, res) => sendError(res, 404, "unknown_url", `Invalid URL (GET ${path})`);
  if (new URLSearchParams(query).get("model") !== "refuse") return null;
  return (_, res) => sendError(res, 403, "model_not_allowed", "You are not allowed to use this model.");
}

/** An HTTP answer instead of the upgrade, on the socket that asked for one. */
export function responseOn(req: IncomingMessage, socket: Socket): ServerResponse {
  const res = new ServerResponse(req);
  res.shouldKeepAlive = false;
  res.assignSocket(socket);
  res.on("finish", () => socket.end());
  // Node no longer reads a socket that it handed over, and so would not see the client go.
  socket.on("end", () => socket.destroy()).resume();
  return res;
}

/** Echoes; `response.create` gets a `response.done` with usage. */
export function converse(socket: WebSocket): void {
  socket.on("error", () => {});
  socket.on("message", (data: Buffer, isBinary: boolean) => {
    if (isBinary) return socket.send(data);
    const text = data.toString("utf8");
    if (!isResponseCreate(text)) return socket.send(JSON.stringify({ type: "echo", text }));
    const usage = { total_tokens: 30, input_tokens: 10, output_tokens: 20 };
    const response = { id: "resp_1", object: "realtime.response", status: "completed", output: [], usage };
    socket.send(JSON.stringify({ type: "response.done", event_id: "event_1", response }));
  });
}

function isResponseCreate(text: string): boolean {
  try {
    return JSON.parse(text)?.type === "response.create";
  } catch {
    return false;
  }
}
