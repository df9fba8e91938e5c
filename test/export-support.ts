import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PgTable } from "drizzle-orm/pg-core";
import { sealer } from "../cli/transfer/seal.ts";
import { layouts } from "../lib/store/layout.ts";
import { openNeon } from "../lib/store/neon.ts";
import { openPostgres } from "../lib/store/postgres.ts";
import { openSqlite } from "../lib/store/sqlite.ts";
import type { Store } from "../lib/store/store.ts";
import { startNeonBridge } from "./bridge/neon.ts";
import { freshDatabase } from "./support/postgres.ts";

export const KINDS = ["SQLite", "Postgres", "Neon"] as const;
export type Kind = (typeof KINDS)[number];
/** A store of its own that has no tables yet, as the command is told of it and as a test looks into it. */
export type Place = { env: Record<string, string>; store: Store; close(): Promise<void> };

export async function newPlace(kind: Kind): Promise<Place> {
  if (kind === "SQLite") {
    const { folder, remove } = newFolder();
    const file = join(folder, "proxy.db");
    const store = openSqlite(file);
    return { env: { DB_ADDRESS: `file:${file}` }, store, close: () => store.close().then(remove) };
  }
  const { url, drop } = await freshDatabase();
  const bridge = kind === "Neon" ? await startNeonBridge(url) : null;
  const store = bridge ? openNeon(url, bridge.endpoint) : openPostgres(url);
  return {
    env: { DB_ADDRESS: url, ...(bridge && { NEON_ENDPOINT: bridge.endpoint }) },
    store,
    close: () =>
      store
        .close()
        .then(() => bridge?.close())
        .then(drop),
  };
}

export function newFolder() {
  const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-export-"));
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Every row of every table, by the names of the tables. */
export async function everyRow(store: Store): Promise<Map<string, unknown[]>> {
  const rows = new Map<string, unknown[]>();
  for (const { of, name } of await layouts()) {
    const found = await store.db.select().from(store[of] as PgTable);
    rows.set(
      name,
      found.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)),
    );
  }
  return rows;
}

export const rowCount = async (store: Store) =>
  [...(await everyRow(store)).values()].reduce((sum, { length }) => sum + length, 0);

/** An export whose records somebody changed, and sealed again. */
export function resealed(text: string, change: (records: Sealed[]) => readonly object[]): string {
  const records = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Sealed);
  const unsealed = change(records).map((record) => ({ ...record, sum: undefined }));
  return unsealed.map(sealer()).join("");
}
// biome-ignore lint/suspicious/noExplicitAny: a test knows what the record is.
export type Sealed = Record<string, any>;

const START = new Date("2026-01-01T00:00:00.001Z");
const TEXTS = [
  "",
  " ",
  "naïve 🎉 👩‍🚀 日本語",
  "\u2028\u2029\u0085\u0001\u007f\ufeff",
  '"\\\n\r\t',
  "x".repeat(3_000_000),
  "null",
];
const MOST = Number.MAX_SAFE_INTEGER;

/** Rows of every table, with what is at the edge of each kind. */
export async function insertOdd({ db, ...tables }: Store): Promise<void> {
  const dates = { createdAt: START, updatedAt: new Date(0) };
  const far = new Date("9999-12-31T23:59:59.999Z");
  await db.insert(tables.users).values([
    { id: "u1", username: "anna", name: null, passwordHash: "$argon2id$", admin: true, disabledAt: null, ...dates },
    { id: "U-2", username: "bob", name: "🎉", passwordHash: "", admin: false, disabledAt: far, ...dates },
  ]);
  const session = { userId: "u1", hint: "…", createdAt: START, lastUsedAt: START, expiresAt: far, endsAt: far };
  await db.insert(tables.sessions).values([
    { hash: "a_B", id: "s1", kind: "key", label: "a,b", ...session },
    { hash: "A-b", id: "s2", kind: "session", label: null, ...session },
  ]);
  await db.insert(tables.tickets).values({ hash: "t", sessionHash: "a_B", expiresAt: far });
  await db.insert(tables.groups).values({ id: "g1", name: "G", description: "", ...dates });
  await db
    .insert(tables.groupMembers)
    .values(["u1", "U-2"].map((userId) => ({ groupId: "g1", userId, role: "owner" as const, createdAt: START })));
  const chat = { ownerId: "u1", model: "gpt-4o", lastSeq: MOST, ...dates };
  await db.insert(tables.chats).values([
    { id: "c1", groupId: "g1", name: "C", systemPrompt: TEXTS[2], key: null, clearedSeq: null, ...chat },
    { id: "c2", groupId: null, name: "", systemPrompt: null, key: "k/é", clearedSeq: MOST - 1, ...chat },
  ]);
  await db.insert(tables.chatUsers).values({ chatId: "c2", userId: "U-2", createdAt: START });
  const message = {
    chatId: "c1",
    userId: "gone",
    state: "done" as const,
    model: "m",
    requestId: "r",
    fingerprint: "f",
    ...dates,
  };
  await db.insert(tables.messages).values(
    TEXTS.map((text, i) => ({
      id: `m${i}`,
      seq: MOST - i,
      prompt: text,
      reply: text,
      contextTokens: i ? i : null,
      ...message,
    })),
  );
  await db.insert(tables.images).values(["m1", "m2"].map((messageId) => ({ messageId, url: `data:${"A".repeat(5_000_000)}` })));
  await db.insert(tables.templates).values({ id: "t1", ownerId: "u1", groupId: "g1", name: "T", text: "{{a}}", ...dates });
  const event = { startedAt: START, endpoint: "e", method: "GET", path: "/", query: "", address: "::1" };
  await db.insert(tables.events).values([
    { id: "e1", userId: "u1", chatId: "c1", ...event },
    { id: "e2", ...event },
  ]);
  const outcome = { endedAt: START, status: 200, durationMs: 2 ** 31 - 1 };
  await db.insert(tables.outcomes).values([
    { eventId: "e1", tokensEstimated: false, requestBody: TEXTS[3], responseBody: TEXTS[4], ...outcome },
    { eventId: "e2", tokensEstimated: null, ...outcome },
    { eventId: "e3", tokensEstimated: true, ...outcome },
  ]);
  const used = { requests: MOST, promptTokens: 0, completionTokens: MOST };
  await db.insert(tables.usage).values(["2026-01-02", "2026-01-01"].map((day) => ({ userId: "u1", day, ...used })));
  await db.insert(tables.settings).values({ key: "system_prompt", value: TEXTS[2] as string });
  const throttle = { count: 1, since: START, blockedUntil: new Date(0) };
  await db.insert(tables.throttles).values(["a:1", "A:1", "a-1", "é", "z", "😀", "\uffee"].map((key) => ({ key, ...throttle })));
}
