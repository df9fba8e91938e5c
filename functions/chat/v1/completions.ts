import * as z from "zod";
import { prompter } from "../../../lib/access.ts";
import { answerPrompt } from "../../../lib/chat/answer.ts";
import { CompletionStream, completionOf } from "../../../lib/chat/openai.ts";
import { endpoint } from "../../../lib/http/endpoint.ts";
import { ApiError } from "../../../lib/http/error.ts";
import { model, prompt } from "../../../lib/http/fields.ts";
import { ofChat } from "../views.ts";

const BODY_BYTES = 4 * 1024 * 1024;
const BODY_KEYS = 100_000;

const part = z.looseObject({ type: z.string(), text: z.string().optional() });
const turn = z.looseObject({ role: z.string(), content: z.union([z.string(), z.array(part)]).nullish() });
const number = z.number().nullish();

/** What is passed on to the model as it is. */
const options = z.object({
  temperature: number,
  top_p: number,
  max_tokens: number,
  max_completion_tokens: number,
  presence_penalty: number,
  frequency_penalty: number,
  seed: number,
  stop: z.union([z.string(), z.array(z.string())]).nullish(),
  logit_bias: z.record(z.string(), z.number()).nullish(),
  reasoning_effort: z.string().nullish(),
  verbosity: z.string().nullish(),
  response_format: z.looseObject({ type: z.string() }).optional(),
  service_tier: z.string().nullish(),
  prediction: z.looseObject({ type: z.string() }).nullish(),
  web_search_options: z.looseObject({}).optional(),
});

const NOT_HERE = "cannot be used in a chat";

const input = z.object({
  ...ofChat,
  messages: z.array(turn).min(1, "is empty"),
  model: model.optional(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().optional() }).nullish(),
  ...options.shape,
  // What a chat cannot keep is refused rather than left out.
  n: z.literal(1, "is not 1: a chat keeps one reply").nullish(),
  tools: z.array(z.unknown()).max(0, NOT_HERE).nullish(),
  functions: z.array(z.unknown()).max(0, NOT_HERE).nullish(),
  modalities: z.array(z.literal("text", NOT_HERE)).nullish(),
  logprobs: z.literal(false, NOT_HERE).nullish(),
});
type Input = z.output<typeof input>;

export const completions = endpoint({
  name: "chat.v1.chat.completions",
  summary: "OpenAI's chat completions, spoken in a chat: the last user message is its next prompt, and its memory the context",
  route: "POST /chat/:id/v1/chat/completions",
  access: prompter((it: Input) => ({
    chat: it.id,
    prompt: lastPrompt(it.messages),
    model: it.model,
    options: options.parse(it),
  })),
  input,
  output: z.looseObject({ id: z.string(), object: z.literal("chat.completion"), choices: z.array(z.unknown()) }),
  errors: [
    "not_found",
    "message_id_taken",
    "idempotency_mismatch",
    "content_flagged",
    "upstream_refused",
    "upstream_busy",
    "upstream_timeout",
  ],
  // Clients send their whole history along.
  bodyLimit: BODY_BYTES,
  bodyKeys: BODY_KEYS,
  streams: ({ stream }: Input) => stream === true,
  run: async ({ grant: { claimed, prompting }, input: { stream_options }, deps, reply }) => {
    const stream = reply.stream && new CompletionStream(reply.stream, claimed.message, stream_options?.include_usage ?? false);
    const answered = await answerPrompt(deps, {
      claimed,
      options: prompting.options,
      partial: stream !== null,
      account: reply.account,
      ...(stream && { onText: (text) => stream.add(text) }),
    }).catch(refuseRetry);
    await stream?.end(answered.message, answered.finishReason);
    return completionOf(answered.message, answered.finishReason);
  },
});

/** OpenAI's clients send what failed again by themselves, and everybody would read the prompt twice: it is in the chat by now. */
function refuseRetry(error: unknown): never {
  if (error instanceof ApiError) error.headers["x-should-retry"] = "false";
  throw error;
}

/** The text of the last message that the user sent; what came before it is in the chat's own memory. */
function lastPrompt(messages: Input["messages"]): string {
  const last = messages.findLast(({ role }) => role === "user");
  if (!last) throw new ApiError("invalid_input", { message: "messages holds none of the user.", param: "messages" });
  const content = last.content ?? "";
  const parts = typeof content === "string" ? [{ type: "text", text: content }] : content;
  if (parts.some(({ type }) => type !== "text"))
    throw new ApiError("invalid_input", { message: "messages holds something other than text.", param: "messages" });
  const parsed = prompt.safeParse(parts.map(({ text = "" }) => text).join("\n"));
  if (parsed.success) return parsed.data;
  throw new ApiError("invalid_input", { message: "The last user message is empty or too long.", param: "messages" });
}
