/**
 * What it costs one process to read the context of a prompt: from the store, with the statement that the claim of a prompt
 * contains, and from a cache, with one GET and JSON.parse. By turns, one at a time. Prints { store: { cpuUs, ms }, cache: { cpuUs, ms } }.
 *
 *   node context.mjs '{ "databaseUrl": "file:…", "redisUrl": "redis://…", "chats": [], "pairs": 10, "reads": 2000 }'
 */
import { Redis } from "ioredis";
import pg from "pg";
import { median } from "../harness/statistics.mjs";

const { databaseUrl, redisUrl, chats, pairs, reads } = JSON.parse(process.argv[2] ?? "{}");
const BLOCK = 100;
const KEY = "context:";
const SQL = `select m.prompt, m.reply, u.username, m.context_tokens from messages m left join users u on u.id = m.user_id
  where m.chat_id = $1 and m.seq < $2 and m.context_tokens is not null order by m.seq desc limit $3`;

/** @typedef {(chatId: string) => Promise<unknown[]> | unknown[]} Read */

const redis = new Redis(redisUrl, { disableClientInfo: true });
const store = await openStore();
for (const id of chats) await redis.set(KEY + id, JSON.stringify(await store.read(id)));
const sources = {
  store: measured(store.read),
  cache: measured(async (id) => JSON.parse((await redis.get(KEY + id)) ?? "[]")),
};
for (const source of Object.values(sources)) await source.block(); // compiled code and open connections
for (const source of Object.values(sources)) source.forget();
for (let done = 0; done < reads; done += BLOCK) for (const source of Object.values(sources)) await source.block();
await store.close();
redis.disconnect();
console.log(JSON.stringify({ store: sources.store.result(), cache: sources.cache.result() }));

function measured(/** @type {Read} */ read) {
  /** @type {number[]} */
  let latenciesMs = [];
  let cpuUs = 0;
  return {
    async block() {
      const before = process.cpuUsage();
      for (let i = 0; i < BLOCK; i++) {
        const startedAt = performance.now();
        const found = await read(chats[i % chats.length]);
        latenciesMs.push(performance.now() - startedAt);
        if (found.length !== pairs) throw new Error(`${found.length} pairs instead of ${pairs}`);
      }
      const { user, system } = process.cpuUsage(before);
      cpuUs += user + system;
    },
    forget() {
      latenciesMs = [];
      cpuUs = 0;
    },
    result: () => ({ cpuUs: cpuUs / latenciesMs.length, ms: median(latenciesMs) }),
  };
}

/** @returns {Promise<{ read: Read, close: () => Promise<void> }>} */
async function openStore() {
  const last = 1_000_000;
  if (!databaseUrl.startsWith("file:")) {
    const client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
    const query = (/** @type {string} */ id) => ({ name: "context", text: SQL, values: [id, last, pairs], rowMode: "array" });
    return { read: async (id) => (await client.query(query(id))).rows, close: () => client.end() };
  }
  const { default: Database } = await import("libsql");
  const database = new Database(databaseUrl.slice("file:".length));
  const statement = database.prepare(SQL.replaceAll(/\$(\d)/g, "?$1")).raw(true);
  return { read: (id) => statement.all([id, last, pairs]), close: async () => void database.close() };
}
