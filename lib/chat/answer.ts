import type { Deps } from "../deps.ts";
import { ApiError, isErrorCode } from "../http/error.ts";
import * as messages from "../repo/messages.ts";
import { announce } from "./announce.ts";
import type { Asked, Generated } from "./generation.ts";
import { ended } from "./told.ts";

export type Answered = Pick<Generated, "known" | "finishReason"> & { message: messages.MessageView };

/** Of a reply that another request made. */
const UNTOLD = { known: {}, finishReason: null, retryAfterSeconds: undefined };

/**
 * The message of a prompt once it is complete, whoever makes its reply: this request, or another with the same id. Throws why
 * there is none: `not_found` where it was deleted meanwhile, and what failed where its reply failed.
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

function accepted({ message, known, finishReason, retryAfterSeconds }: Generated): Answered {
  if (!message) throw new ApiError("not_found", { message: "The message was deleted while its reply was made." });
  if (message.state !== "failed") return { message, known, finishReason };
  const { errorCode } = message;
  const code = errorCode !== null && isErrorCode(errorCode) ? errorCode : "upstream_failed";
  throw new ApiError(code, retryAfterSeconds === undefined ? {} : { retryAfterSeconds });
}
