import OpenAI, { type ClientOptions } from "openai";
import type { Chat, Chats } from "../chat/support.ts";
import type { Person } from "../support/app.ts";

/** The official client at the address of a chat, which tries nothing twice unless told. */
export const openaiAt = (
  { app }: Chats,
  chat: Pick<Chat, "id" | "owner">,
  by: Person = chat.owner,
  more: ClientOptions = {},
): OpenAI => new OpenAI({ baseURL: `${app.url}/chat/${chat.id}/v1`, apiKey: by.token, maxRetries: 0, ...more });

/** A conversation of one message. */
export const asking = (content: OpenAI.ChatCompletionUserMessageParam["content"]): OpenAI.ChatCompletionMessageParam[] => [
  { role: "user", content },
];

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** What the pieces of a streamed completion say together. */
export const textOf = (chunks: OpenAI.ChatCompletionChunk[]): string =>
  chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("");

/** The error of a call that fails, as a developer gets it. */
export async function failureOf(call: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof OpenAI.APIError)) throw new Error(`expected an API error, got ${error}`);
  return error;
}

/** A value's keys and types, all the way down. */
export function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(shapeOf);
  if (typeof value !== "object" || value === null) return value === null ? "null" : typeof value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, shapeOf(member)]));
}
