import type { IncomingMessage, ServerResponse } from "node:http";
import type { AnyEndpoint, Call } from "./endpoint.ts";
import type { AnswerHeaders } from "./raw.ts";
import { prefersEvents, SseAnswer } from "./sse.ts";
import type { Viewers } from "./viewers.ts";

/** An endpoint's answer that may become a stream. */
export type StreamedAnswer = {
  readonly viewer: SseAnswer;
  /** Ends the answer. False: no frame was sent, so that it is an ordinary one and still to be given. */
  finish(): boolean;
};

/** What an endpoint sends its frames to, where it has any and the client prefers them; else null. */
export async function streamedAnswer(
  entry: AnyEndpoint,
  input: unknown,
  { caller, deps }: Call,
  req: IncomingMessage,
  res: ServerResponse,
  headers: AnswerHeaders,
  viewers: Viewers,
): Promise<StreamedAnswer | null> {
  const wanted = entry.streams === true ? prefersEvents(req.headers.accept) : entry.streams?.(input);
  if (!wanted || req.method === "HEAD" || !(await itsTurn(req, res))) return null;
  const viewer = new SseAnswer(res, headers, null);
  const remove = viewers.add(viewer);
  // The handler goes on; only its caller hears no more.
  const unwatch = caller && deps.revocation.watch(caller.sessionId, () => viewer.abandon("session_ended"));
  return {
    viewer,
    finish: () => {
      remove();
      unwatch?.();
      if (viewer.begun) viewer.finish();
      return viewer.begun;
    },
  };
}

/** Whether the connection is this answer's. Behind pipelined requests it becomes so when they have theirs, unless it ends before. */
export function itsTurn(req: IncomingMessage, res: ServerResponse): Promise<boolean> {
  if (res.socket || res.destroyed) return Promise.resolve(!res.destroyed);
  return new Promise((resolve) => {
    const { socket } = req;
    const gone = () => resolve(false);
    socket.once("close", gone);
    res.once("socket", () => {
      socket.off("close", gone);
      resolve(true);
    });
  });
}
