import { eq } from "drizzle-orm";
import type { Store } from "../store/store.ts";

/** The setting that holds the system prompt of every chat that has none of its own. */
export const SYSTEM_PROMPT = "system_prompt";

/** The global system prompt; null where there is none. */
export async function systemPrompt({ db, settings }: Store): Promise<string | null> {
  const [found] = await db.select({ value: settings.value }).from(settings).where(eq(settings.key, SYSTEM_PROMPT));
  return found?.value ?? null;
}

/** Sets the global system prompt, or takes it away (null). */
export async function setSystemPrompt({ db, settings }: Store, prompt: string | null): Promise<void> {
  if (prompt === null) {
    await db.delete(settings).where(eq(settings.key, SYSTEM_PROMPT));
    return;
  }
  const row = { key: SYSTEM_PROMPT, value: prompt };
  await db
    .insert(settings)
    .values(row)
    .onConflictDoUpdate({ target: settings.key, set: { value: prompt } });
}
