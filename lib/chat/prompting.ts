import { hash } from "node:crypto";
import type { Deps } from "../deps.ts";
import type { Call } from "../http/endpoint.ts";
import { ApiError } from "../http/error.ts";
import { findForMember } from "../repo/chats.ts";
import * as claims from "../repo/claims.ts";
import { find, type Key } from "../repo/messages.ts";
import { twice } from "../store/store.ts";
import { isUuid, uuidOf } from "../uuid.ts";
import { refuseFlagged } from "./moderation.ts";
import { chatIdOf, makeNamed } from "./own.ts";
import { type Filled, fill } from "./template.ts";

/** What is asked of a chat, however it was put. */
export type Prompting = {
  /** An id, or a key of the prompter's own. */
  chat: string;
  /** Their own chat is made where there is none with that key. */
  makes?: boolean;
  /** In their own words, or a template's. */
  prompt: string | Filled;
  /** The address of an image that belongs to the prompt. */
  image?: string | undefined;
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
export type Claimed = claims.Claimed & { ours: boolean; image: string | null };

const MOST_KEY = 255;

/**
 * Stores a prompt in a chat that its author sees, once. Throws `not_found`, `idempotency_mismatch` where the id was used with
 * another prompt, `message_id_taken` where it is another's, `content_flagged` where moderation is to refuse it.
 */
export async function claimPrompt(call: Call, userId: string, prompting: Prompting): Promise<Claimed> {
  const { deps } = call;
  const { model = null, offTheRecord = false, image = null } = prompting;
  const chatId = chatIdOf(prompting.chat, userId);
  const id = prompting.messageId ?? idOfKey(call.headers["idempotency-key"], userId, chatId) ?? deps.newId();
  const fingerprint = fingerprintOf(prompting);
  // What is repeated keeps the words that it was stored with, whatever became of its template.
  const words = (template: Filled) =>
    fill(deps.store, template, userId).catch(async (error) => {
      const stored = await find(deps.store, { id, chatId });
      if (stored?.userId === userId && stored.fingerprint === fingerprint) return stored.prompt;
      throw error;
    });
  const prompt = typeof prompting.prompt === "string" ? prompting.prompt : await words(prompting.prompt);
  // What is off the record goes to nobody but the chat's members, and what was claimed before has been judged.
  if (!offTheRecord && deps.config.chat.moderate === "block" && !(await isClaimed(deps, { id, chatId }, userId, prompting)))
    await refuseFlagged(deps, { prompt, image });
  const claim: claims.Claim = {
    ...{ id, chatId, userId, prompt, image, model, offTheRecord, fingerprint },
    requestId: call.id,
    contextPairs: offTheRecord ? 0 : (prompting.context ?? deps.config.chat.contextPairs),
    at: new Date(deps.now()),
  };
  const attempt = () => twice(() => claims.claim(deps.store, claim));
  const making = () => makeNamed(deps, prompting.chat, userId).then(attempt);
  const claimed = (await attempt()) ?? (prompting.makes ? await making() : null);
  if (!claimed) throw new ApiError("not_found");
  const { message } = claimed;
  if (message.chatId !== chatId || message.userId !== userId) throw new ApiError("message_id_taken", { param: "message_id" });
  if (message.fingerprint !== fingerprint) throw new ApiError("idempotency_mismatch", { param: "message_id" });
  return { ...claimed, ours: message.requestId === call.id, image };
}

/** Whether a prompt is in its chat already. Throws `not_found` where its author does not see the chat, and would not make it. */
async function isClaimed({ store }: Deps, key: Key, userId: string, { chat, makes }: Prompting): Promise<boolean> {
  const [seen, message] = await Promise.all([findForMember(store, key.chatId, userId), find(store, key)]);
  if (!seen && (isUuid(chat) || !makes)) throw new ApiError("not_found");
  return message !== null;
}

/** Of what was asked, not of the words that a template had at the time: it may have been changed when a prompt is repeated. */
function fingerprintOf({ prompt, model, offTheRecord, context, options, image }: Prompting): string {
  const said = [prompt, model ?? null, offTheRecord ?? false, context ?? null, options ?? null];
  return hash("sha256", JSON.stringify(image === undefined ? said : [...said, image]), "base64url");
}

/** An id that is the same for the same key of the same user in the same chat. */
function idOfKey(key: string | string[] | undefined, userId: string, chatId: string): string | null {
  if (key === undefined) return null;
  if (typeof key !== "string" || key === "" || key.length > MOST_KEY)
    throw new ApiError("invalid_input", { message: `Idempotency-Key takes 1 to ${MOST_KEY} characters.` });
  return uuidOf(userId, chatId, key);
}
