import * as z from "zod";
import { id, time } from "../../lib/http/fields.ts";
import type { ChatView as Chat, Participant } from "../../lib/repo/chats.ts";
import type { MessageView as Message } from "../../lib/repo/messages.ts";

/** The name of a model, as the upstream or `MODEL_ALIASES` has it. */
export const model = z.string().regex(/^[\x21-\x7e]{1,128}$/, "is not the name of a model");

/** A prompt: some text. */
export const PROMPT_BYTES = 262_144;
export const prompt = z.string().min(1, "is empty").max(PROMPT_BYTES, `is longer than ${PROMPT_BYTES} characters`);

/** The chat that is meant. */
export const ofChat = { id };

/** A chat as those see it who may. */
export const ChatView = z.object({
  id: z.string(),
  name: z.string(),
  model: z.string(),
  owner_id: z.string(),
  group_id: z.string().nullable(),
  created_at: time,
  updated_at: time,
});
export const chatView = (chat: Chat): z.input<typeof ChatView> => ({
  id: chat.id,
  name: chat.name,
  model: chat.model,
  owner_id: chat.ownerId,
  group_id: chat.groupId,
  created_at: chat.createdAt.toISOString(),
  updated_at: chat.updatedAt.toISOString(),
});

/** A prompt and its reply. `otr`: off the record, shown to members and never sent to the model. */
export const MessageView = z.object({
  id: z.string(),
  chat_id: z.string(),
  /** Its number in the chat, from 1 without a gap. */
  seq: z.int(),
  user_id: z.string(),
  username: z.string().nullable(),
  prompt: z.string(),
  reply: z.string(),
  model: z.string(),
  otr: z.boolean(),
  state: z.enum(["streaming", "done", "stopped", "failed", "off_record"]),
  stopped_by: z.string().nullable(),
  error_code: z.string().nullable(),
  prompt_tokens: z.int().nullable(),
  completion_tokens: z.int().nullable(),
  created_at: time,
  updated_at: time,
});
export const messageView = (message: Message): z.input<typeof MessageView> => ({
  id: message.id,
  chat_id: message.chatId,
  seq: message.seq,
  user_id: message.userId,
  username: message.username,
  prompt: message.prompt,
  reply: message.reply,
  model: message.model,
  otr: message.state === "off_record",
  state: message.state,
  stopped_by: message.state === "stopped" ? message.stoppedBy : null,
  error_code: message.errorCode,
  prompt_tokens: message.promptTokens,
  completion_tokens: message.completionTokens,
  created_at: message.createdAt.toISOString(),
  updated_at: message.updatedAt.toISOString(),
});

/** Everyone who sees a chat, its owner first. */
export const ParticipantsView = z.array(
  z.object({ id: z.string(), username: z.string(), name: z.string().nullable(), role: z.enum(["owner", "member"]) }),
);
export const participantsView = (participants: readonly Participant[]): z.input<typeof ParticipantsView> => [...participants];
