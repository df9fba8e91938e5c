import { inArray } from "drizzle-orm";
import type { Store } from "../store/store.ts";

/** Whether an address holds its image itself. */
export const isInline = (url: string): boolean => url.startsWith("data:");

/** An address as its message has it: one that holds its image itself is kept apart, and its type alone is left. */
export const shortOf = (url: string): string => (isInline(url) ? url.slice(0, url.search(/[;,]/)) : url);

/** The addresses of images that were given inline, by the ids of their messages. */
export async function inlineOf({ db, images }: Store, messageIds: readonly string[]): Promise<Map<string, string>> {
  const { messageId, url } = images;
  const found = await db
    .select({ messageId, url })
    .from(images)
    .where(inArray(messageId, [...messageIds]));
  return new Map(found.map((row) => [row.messageId, row.url]));
}
