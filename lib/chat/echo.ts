import type { Viewer } from "../http/viewer.ts";
import type { MessageView } from "../repo/messages.ts";
import { endingFrame, Named } from "./frames.ts";
import { Outbox } from "./outbox.ts";

/** A reply as its prompter gets it in the answer itself: the frames of the chat's stream, without waiting for the bus. */
export class Echo {
  readonly #viewer: Viewer;
  readonly #outbox: Outbox;
  readonly #named: Named;

  constructor(viewer: Viewer, { id, userId, prompt }: MessageView) {
    this.#viewer = viewer;
    this.#named = new Named(id, userId, prompt);
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
