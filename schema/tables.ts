import { isNotNull, sql } from "drizzle-orm";
import type { AnyPgColumn } from "drizzle-orm/pg-core";
import type { Kit } from "./kit.ts";

/** Every table, for either dialect. Ids, times and defaults come from code. */
export const tables = (k: Kit) => {
  /** The id of what a row is a part of, and goes with. */
  const part = (name: string, of: () => AnyPgColumn) => k.text(name).notNull().references(of, { onDelete: "cascade" });

  const users = k.table(
    "users",
    {
      id: k.text("id").primaryKey(),
      username: k.text("username").notNull(),
      name: k.text("name"),
      passwordHash: k.text("password_hash").notNull(),
      admin: k.flag("admin").notNull(),
      disabledAt: k.time("disabled_at"),
      createdAt: k.time("created_at").notNull(),
      updatedAt: k.time("updated_at").notNull(),
    },
    (t) => [k.unique("users_username").on(t.username)],
  );

  // A sign-in and an API key are the same thing: a token whose SHA-256 is all that is kept.
  const sessions = k.table(
    "sessions",
    {
      hash: k.text("hash").primaryKey(),
      id: k.text("id").notNull(),
      userId: part("user_id", () => users.id),
      kind: k.text("kind").$type<"session" | "key">().notNull(),
      label: k.text("label"),
      hint: k.text("hint").notNull(),
      createdAt: k.time("created_at").notNull(),
      lastUsedAt: k.time("last_used_at").notNull(),
      expiresAt: k.time("expires_at").notNull(),
      endsAt: k.time("ends_at").notNull(),
    },
    (t) => [k.unique("sessions_id").on(t.id), k.index("sessions_user").on(t.userId)],
  );

  // A group's owners manage it and its members; its members see its chats.
  const groups = k.table("groups", {
    id: k.text("id").primaryKey(),
    name: k.text("name").notNull(),
    description: k.text("description").notNull(),
    createdAt: k.time("created_at").notNull(),
    updatedAt: k.time("updated_at").notNull(),
  });

  const groupMembers = k.table(
    "group_members",
    {
      groupId: part("group_id", () => groups.id),
      userId: part("user_id", () => users.id),
      role: k.text("role").$type<"owner" | "member">().notNull(),
      createdAt: k.time("created_at").notNull(),
    },
    (t) => [k.key({ columns: [t.groupId, t.userId] }), k.index("group_members_user").on(t.userId)],
  );

  // `last_seq` is the number of the newest message, also when that was deleted: a number is never given twice. Messages up to
  // `cleared_seq` were cleared, wherever a copy of them may still be. `key` is the name that its owner chose for it, if any.
  const chats = k.table(
    "chats",
    {
      id: k.text("id").primaryKey(),
      ownerId: k
        .text("owner_id")
        .notNull()
        .references(() => users.id),
      groupId: k.text("group_id").references(() => groups.id, { onDelete: "cascade" }),
      name: k.text("name").notNull(),
      model: k.text("model").notNull(),
      systemPrompt: k.text("system_prompt"),
      lastSeq: k.big("last_seq").notNull(),
      key: k.text("key"),
      clearedSeq: k.big("cleared_seq"),
      createdAt: k.time("created_at").notNull(),
      updatedAt: k.time("updated_at").notNull(),
    },
    (t) => [k.index("chats_owner").on(t.ownerId), k.index("chats_group").on(t.groupId).where(isNotNull(t.groupId))],
  );

  const chatUsers = k.table(
    "chat_users",
    {
      chatId: part("chat_id", () => chats.id),
      userId: part("user_id", () => users.id),
      createdAt: k.time("created_at").notNull(),
    },
    (t) => [k.key({ columns: [t.chatId, t.userId] }), k.index("chat_users_user").on(t.userId)],
  );

  // A prompt and its reply. `context_tokens` is what the pair counts in a context; null where it is never part of one.
  const messages = k.table(
    "messages",
    {
      id: k.text("id").primaryKey(),
      chatId: part("chat_id", () => chats.id),
      seq: k.big("seq").notNull(),
      userId: k.text("user_id").notNull(),
      state: k.text("state").$type<"streaming" | "done" | "stopped" | "failed" | "off_record">().notNull(),
      model: k.text("model").notNull(),
      // The one request that makes the reply, and what another with the same id must agree with.
      requestId: k.text("request_id").notNull(),
      fingerprint: k.text("fingerprint").notNull(),
      contextTokens: k.int("context_tokens"),
      promptTokens: k.int("prompt_tokens"),
      completionTokens: k.int("completion_tokens"),
      stoppedBy: k.text("stopped_by"),
      errorCode: k.text("error_code"),
      // What moderation flagged the prompt for: its categories, with commas between.
      flagged: k.text("flagged"),
      // The address of an image that belongs to the prompt; of one that was given inline its type alone, and the rest is in `images`.
      image: k.text("image"),
      createdAt: k.time("created_at").notNull(),
      updatedAt: k.time("updated_at").notNull(),
      // Last, because SQLite reads through long texts to what lies behind them.
      prompt: k.text("prompt").notNull(),
      reply: k.text("reply").notNull(),
    },
    (t) => [
      k.unique("messages_chat").on(t.chatId, t.seq),
      k.index("messages_context").on(t.chatId, t.seq).where(isNotNull(t.contextTokens)),
      k.index("messages_streaming").on(t.chatId).where(sql`state = 'streaming'`),
      // What has expired is deleted by it, the oldest first.
      k.index("messages_created").on(t.createdAt),
    ],
  );

  // Images that were given inline, as `data:` addresses: apart, because they are large and few readers want them.
  const images = k.table("images", {
    messageId: k
      .text("message_id")
      .primaryKey()
      .references(() => messages.id, { onDelete: "cascade" }),
    url: k.text("url").notNull(),
  });

  // A prompt that somebody saved, with `{{fields}}` to be filled in; for themselves, or for a group that they are a member of.
  const templates = k.table(
    "templates",
    {
      id: k.text("id").primaryKey(),
      ownerId: k
        .text("owner_id")
        .notNull()
        .references(() => users.id),
      groupId: k.text("group_id").references(() => groups.id, { onDelete: "set null" }),
      name: k.text("name").notNull(),
      createdAt: k.time("created_at").notNull(),
      updatedAt: k.time("updated_at").notNull(),
      text: k.text("text").notNull(),
    },
    (t) => [k.index("templates_owner").on(t.ownerId), k.index("templates_group").on(t.groupId).where(isNotNull(t.groupId))],
  );

  // A ticket opens one stream in the name of the session that it was made with.
  const tickets = k.table("tickets", {
    hash: k.text("hash").primaryKey(),
    sessionHash: part("session_hash", () => sessions.hash),
    expiresAt: k.time("expires_at").notNull(),
  });

  // The audit log is append-only: an event is written before a request is served, its outcome after, and neither is rewritten.
  // An id is a UUIDv7, so it orders by time; an event without an outcome is running or was interrupted.
  const events = k.table(
    "events",
    {
      id: k.text("id").primaryKey(),
      startedAt: k.time("started_at").notNull(),
      userId: k.text("user_id"),
      sessionId: k.text("session_id"),
      groupId: k.text("group_id"),
      chatId: k.text("chat_id"),
      endpoint: k.text("endpoint").notNull(),
      method: k.text("method").notNull(),
      path: k.text("path").notNull(),
      query: k.text("query").notNull(),
      address: k.text("address").notNull(),
    },
    (t) => [
      k.index("events_user").on(t.userId, t.id),
      k.index("events_chat").on(t.chatId, t.id).where(isNotNull(t.chatId)),
      k.index("events_group").on(t.groupId, t.id).where(isNotNull(t.groupId)),
    ],
  );

  const outcomes = k.table("outcomes", {
    eventId: k.text("event_id").primaryKey(),
    endedAt: k.time("ended_at").notNull(),
    status: k.int("status").notNull(),
    durationMs: k.int("duration_ms").notNull(),
    model: k.text("model"),
    promptTokens: k.int("prompt_tokens"),
    completionTokens: k.int("completion_tokens"),
    tokensEstimated: k.flag("tokens_estimated"),
    upstreamRequestId: k.text("upstream_request_id"),
    errorCode: k.text("error_code"),
    requestBody: k.text("request_body"),
    responseBody: k.text("response_body"),
  });

  const usage = k.table(
    "usage",
    {
      userId: k.text("user_id").notNull(),
      day: k.text("day").notNull(),
      requests: k.big("requests").notNull(),
      promptTokens: k.big("prompt_tokens").notNull(),
      completionTokens: k.big("completion_tokens").notNull(),
    },
    (t) => [k.key({ columns: [t.userId, t.day] })],
  );

  const settings = k.table("settings", {
    key: k.text("key").primaryKey(),
    value: k.text("value").notNull(),
  });

  // Sign-in attempts per address and failures per user. In the store, so that every instance counts the same.
  const throttles = k.table("throttles", {
    key: k.text("key").primaryKey(),
    count: k.int("count").notNull(),
    since: k.time("since").notNull(),
    blockedUntil: k.time("blocked_until").notNull(),
  });

  return {
    ...{ users, sessions, tickets, groups, groupMembers, chats, chatUsers, messages, images, templates },
    ...{ events, outcomes, usage, settings, throttles },
  };
};

export type Tables = ReturnType<typeof tables>;
