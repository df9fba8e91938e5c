import * as z from "zod";
import { imageAddress } from "../../lib/chat/turn.ts";
import { chatName, model, time, whole } from "../../lib/http/fields.ts";
import type { ChatView as Chat, Participant } from "../../lib/repo/chats.ts";
import type { MessageView as Message } from "../../lib/repo/messages.ts";

/** The chat that is meant. */
export const ofChat = { id: chatName };

const MOST_CONTEXT = 50;
/** How a prompt is to be answered. */
export const promptOptions = {
  /** How many earlier prompts with their replies go with it. */
  context: whole(0, MOST_CONTEXT).optional(),
  model: model.optional(),
  /** Whether those who watch get the reply as it comes. */
  stream: z.boolean().default(false),
};
export const PROMPT_ERRORS = [
  ...(["not_found", "message_id_taken", "idempotency_mismatch", "content_flagged"] as const),
  ...(["upstream_refused", "upstream_busy", "upstream_timeout"] as const),
] as const;

/** A chat as those see it who may. */
export const ChatView = z.object({
  id: z.string(),
  /** What its owner calls it in paths, where they chose that. */
  key: z.string().nullable(),
  name: z.string(),
  model: z.string(),
  owner_id: z.string(),
  group_id: z.string().nullable(),
  created_at: time,
  updated_at: time,
});
export const chatView = (chat: Chat): z.input<typeof ChatView> => ({
  id: chat.id,
  key: chat.key,
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
  /** The address of an image that belongs to the prompt; of one that was given inline, where it can be had. */
  image: z.string().nullable(),
  model: z.string(),
  otr: z.boolean(),
  state: z.enum(["streaming", "done", "stopped", "failed", "off_record"]),
  stopped_by: z.string().nullable(),
  error_code: z.string().nullable(),
  /** What moderation flagged the prompt for. */
  flagged: z.array(z.string()).nullable(),
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
  image: imageAddress(message),
  model: message.model,
  otr: message.state === "off_record",
  state: message.state,
  stopped_by: message.state === "stopped" ? message.stoppedBy : null,
  error_code: message.errorCode,
  flagged: message.flagged?.split(",") ?? null,
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
