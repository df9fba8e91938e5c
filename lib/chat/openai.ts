import { Frame } from "../http/frame.ts";
import type { Viewer } from "../http/viewer.ts";
import type { MessageView } from "../repo/messages.ts";
import { Outbox } from "./outbox.ts";

/** OpenAI's word for why a reply ended, where the upstream's is not known: of a stopped reply, or one from the store. */
const ENDED = "stop";

const headOf = ({ id, model, createdAt }: MessageView) => ({
  id: `chatcmpl-${id}`,
  created: Math.floor(createdAt.getTime() / 1000),
  model,
});

function usageOf({ promptTokens, completionTokens }: MessageView) {
  const [prompt, completion] = [promptTokens ?? 0, completionTokens ?? 0];
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
}

/** A message of a chat as OpenAI's API answers a completion. */
export const completionOf = (message: MessageView, finishReason: string | null) => ({
  ...headOf(message),
  object: "chat.completion" as const,
  choices: [
    {
      index: 0,
      message: { role: "assistant" as const, content: message.reply, refusal: null },
      logprobs: null,
      finish_reason: finishReason ?? ENDED,
    },
  ],
  usage: usageOf(message),
});

/** The same as OpenAI streams it: pieces of the reply, why it ended, the usage where it is wanted, and `[DONE]`. */
export class CompletionStream {
  readonly #outbox: Outbox;
  readonly #message: MessageView;
  readonly #includeUsage: boolean;
  #begun = false;

  constructor(viewer: Viewer, message: MessageView, includeUsage: boolean) {
    this.#message = message;
    this.#includeUsage = includeUsage;
    this.#outbox = new Outbox(viewer, (text) => this.#piece({ content: text }, null));
  }

  /** More of the reply. The first makes the answer a stream; what fails before it is answered with its status. */
  add(text: string): void {
    if (!this.#begun) this.#outbox.say(this.#piece({ role: "assistant", content: "", refusal: null }, null));
    this.#begun = true;
    this.#outbox.add(text);
  }

  /** The end, with all of the reply where none of it was heard. Resolves when it is sent, or nobody is there to send it to. */
  async end(message: MessageView, finishReason: string | null): Promise<void> {
    if (!this.#begun) this.add(message.reply);
    this.#outbox.say(this.#piece({}, finishReason ?? ENDED));
    if (this.#includeUsage) this.#outbox.say(this.#chunk({ choices: [], usage: usageOf(message) }));
    this.#outbox.say(new Frame("[DONE]"));
    await this.#outbox.empty();
  }

  #piece(delta: Record<string, string | null>, finishReason: string | null): Frame {
    return this.#chunk({ choices: [{ index: 0, delta, logprobs: null, finish_reason: finishReason }] });
  }

  #chunk(fields: Record<string, unknown>): Frame {
    const usage = this.#includeUsage ? { usage: null } : {};
    return new Frame(JSON.stringify({ ...headOf(this.#message), object: "chat.completion.chunk", ...usage, ...fields }));
  }
}
