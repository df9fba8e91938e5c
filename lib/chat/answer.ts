import type { Deps } from "../deps.ts";
import { ApiError, isErrorCode } from "../http/error.ts";
import * as messages from "../repo/messages.ts";
import { announce } from "./announce.ts";
import type { Asked, Generated } from "./generation.ts";
import { ended } from "./told.ts";

export type Answered = Pick<Generated, "finishReason"> & { message: messages.MessageView };

/** What a prompt is answered whose reply failed. */
export class ReplyFailed extends ApiError {
  /** The message with what came of its reply. */
  readonly reply: messages.MessageView;
  constructor(reply: messages.MessageView, retryAfterSeconds?: number) {
    const code = reply.errorCode !== null && isErrorCode(reply.errorCode) ? reply.errorCode : "upstream_failed";
    super(code, retryAfterSeconds === undefined ? {} : { retryAfterSeconds });
    this.reply = reply;
  }
}

/** Of a reply that another request made. */
const UNTOLD = { finishReason: null, retryAfterSeconds: undefined };

/**
 * The message of a prompt once it is complete, whoever makes its reply: this request, or another with the same id. Throws
 * `not_found` where it was deleted meanwhile, and `ReplyFailed`.
 */
export async function answerPrompt(deps: Deps, asked: Asked): Promise<Answered> {
  const { message, ours } = asked.claimed;
  if (message.state === "off_record") {
    if (ours) await announce(deps, message.chatId, ended(message));
    return { message, ...UNTOLD };
  }
  if (ours) return accepted(await deps.generations.run(asked));
  if (message.state === "streaming") await deps.live.ended(message.chatId, message.id);
  return accepted({ message: await messages.find(deps.store, message), ...UNTOLD });
}

function accepted({ message, finishReason, retryAfterSeconds }: Generated): Answered {
  if (!message) throw new ApiError("not_found", { message: "The message was deleted while its reply was made." });
  if (message.state === "failed") throw new ReplyFailed(message, retryAfterSeconds);
  return { message, finishReason };
}
