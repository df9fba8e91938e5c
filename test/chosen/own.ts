import type { Store } from "../../lib/store/store.ts";
import { type Chat, chatOf, person } from "../chat/support.ts";
import type { App, Person } from "../support/app.ts";

/** Somebody's own chat with a key, which is made where there is none yet: with no system prompt, and nothing said in it. */
export async function ownChat(app: App, key: string, owner?: Person): Promise<Chat> {
  const by = owner ?? (await person(app.deps.store));
  const made = await app.call(`/${key}/system`, { token: by.token, body: { content: "" } });
  if (made.status !== 200) throw new Error(`${key}/system answered ${made.status}: ${made.text}`);
  const { json } = await app.call("/chat/read", { token: by.token, body: { id: key } });
  return chatOf(app, json.chat.id, by);
}

/** The tables of an SQLite store that hold a text in one of their rows. */
export async function tablesWith({ run }: Store, text: string): Promise<string[]> {
  const [names = []] = await run([{ sql: "select name from sqlite_master where type = 'table'", params: [] }]);
  const found: string[] = [];
  for (const [name] of names) {
    const [rows] = await run([{ sql: `select * from "${name}"`, params: [] }]);
    if (JSON.stringify(rows).includes(text)) found.push(String(name));
  }
  return found;
}
