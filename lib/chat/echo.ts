import type { Deps } from "../deps.ts";
import type { Reply } from "../http/endpoint.ts";
import type { Viewer } from "../http/viewer.ts";
import type { MessageView } from "../repo/messages.ts";
import { answerPrompt, ReplyFailed } from "./answer.ts";
import { endingFrame, Named, nameOf } from "./frames.ts";
import { Outbox } from "./outbox.ts";
import type { Claimed } from "./prompting.ts";

/**
 * Answers a prompt with its message, and on the way as events, where the client prefers those. `partial`: those who watch get it
 * as it comes, too. Throws as `answerPrompt` does.
 */
export async function answerEchoed(deps: Deps, claimed: Claimed, partial: boolean, reply: Reply): Promise<MessageView> {
  const echo = reply.stream && new Echo(reply.stream, claimed.message);
  const { message } = await answerPrompt(deps, {
    claimed,
    partial: partial || echo !== null,
    account: reply.account,
    ...(echo && { onText: (text) => echo.add(text) }),
  }).catch(async (error) => {
    if (error instanceof ReplyFailed) await echo?.end(error.reply);
    throw error;
  });
  await echo?.end(message);
  return message;
}

/** A reply as its prompter gets it in the answer itself: the frames of the chat's stream, without waiting for the bus. */
class Echo {
  readonly #viewer: Viewer;
  readonly #outbox: Outbox;
  readonly #named: Named;

  constructor(viewer: Viewer, message: MessageView) {
    this.#viewer = viewer;
    this.#named = new Named(nameOf(message));
    this.#outbox = new Outbox(viewer, (text) => this.#named.adds(null, text));
    this.#outbox.say(this.#named.begins());
  }

  /** More of the reply. */
  add(text: string): void {
    this.#outbox.add(text);
  }

  /** The whole of it, as far as it came. Resolves when it is sent, or nobody is there to send it to. */
  async end({ id, state, stoppedBy: by, errorCode: code, reply }: MessageView): Promise<void> {
    const before = endingFrame({ id, state, by, code });
    this.#outbox.say(...(before ? [before] : []), this.#named.ends(null, reply));
    await this.#outbox.empty();
    this.#viewer.end(code);
  }
}
