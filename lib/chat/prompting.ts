import { hash } from "node:crypto";
import type { Call } from "../http/endpoint.ts";
import { ApiError } from "../http/error.ts";
import * as messages from "../repo/messages.ts";
import { twice } from "../store/store.ts";

/** What is asked of a chat, however it was put. */
export type Prompting = {
  chatId: string;
  prompt: string;
  model?: string | undefined;
  offTheRecord?: boolean | undefined;
  /** How many earlier pairs go with it; the configured number where it is not said. */
  context?: number | undefined;
  /** Equal prompts of one id are one prompt. An `Idempotency-Key` header makes one where none is given. */
  messageId?: string | undefined;
  /** How the model is to answer: what is passed on to it, such as a temperature. */
  options?: Record<string, unknown> | undefined;
};
/** `ours`: this request makes the reply; else another one does, or did. */
export type Claimed = messages.Claimed & { ours: boolean };

const MOST_KEY = 255;

/**
 * Stores a prompt in a chat that its author sees, once. Throws `not_found`, `idempotency_mismatch` where the id was used with
 * another prompt, `message_id_taken` where it is another's.
 */
export async function claimPrompt(call: Call, userId: string, prompting: Prompting): Promise<Claimed> {
  const { deps } = call;
  const { chatId, prompt, model = null, offTheRecord = false } = prompting;
  const id = prompting.messageId ?? idOfKey(call.headers["idempotency-key"], userId, chatId) ?? deps.newId();
  const fingerprint = fingerprintOf(prompting);
  const claim: messages.Claim = {
    ...{ id, chatId, userId, prompt, model, offTheRecord, fingerprint },
    requestId: call.id,
    contextPairs: offTheRecord ? 0 : (prompting.context ?? deps.config.chat.contextPairs),
    at: new Date(deps.now()),
  };
  const claimed = await twice(() => messages.claim(deps.store, claim));
  if (!claimed) throw new ApiError("not_found");
  const { message } = claimed;
  if (message.chatId !== chatId || message.userId !== userId) throw new ApiError("message_id_taken", { param: "message_id" });
  if (message.fingerprint !== fingerprint) throw new ApiError("idempotency_mismatch", { param: "message_id" });
  return { ...claimed, ours: message.requestId === call.id };
}

function fingerprintOf({ prompt, model, offTheRecord, context, options }: Prompting): string {
  return hash(
    "sha256",
    JSON.stringify([prompt, model ?? null, offTheRecord ?? false, context ?? null, options ?? null]),
    "base64url",
  );
}

/** An id that is the same for the same key of the same user in the same chat: a UUIDv8 of its hash. */
function idOfKey(key: string | string[] | undefined, userId: string, chatId: string): string | null {
  if (key === undefined) return null;
  if (typeof key !== "string" || key === "" || key.length > MOST_KEY)
    throw new ApiError("invalid_input", { message: `Idempotency-Key takes 1 to ${MOST_KEY} characters.` });
  const digits = hash("sha256", JSON.stringify([userId, chatId, key]), "hex");
  const variant = ((Number.parseInt(digits.slice(16, 17), 16) & 3) | 8).toString(16);
  const parts = [
    digits.slice(0, 8),
    digits.slice(8, 12),
    `8${digits.slice(13, 16)}`,
    variant + digits.slice(17, 20),
    digits.slice(20, 32),
  ];
  return parts.join("-");
}
