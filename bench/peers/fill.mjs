/** Chats with as many messages as are wanted, written straight into the store: over the API 100,000 would take minutes. */
import { randomUUID } from "node:crypto";
import pg from "pg";

/**
 * @typedef {object} Filling
 * @property {string} ownerId
 * @property {string} [memberId]  somebody who is added to each chat
 * @property {number} chats
 * @property {number} [pairs]  in each chat, all of them answered
 * @property {number} [characters]  of each prompt and each reply
 */

const WORDS = "we met and talked about the plan for spring which nobody had read yet so it was put off until the next time".split(
  " ",
);

/** @param {string} databaseUrl @param {Filling} filling @returns {Promise<string[]>} the ids of the chats */
export async function fillChats(databaseUrl, { ownerId, memberId, chats, pairs = 0, characters = 100 }) {
  const ids = Array.from({ length: chats }, () => randomUUID());
  const database = await open(databaseUrl);
  const { rows, ordinal, numbers, hex, time, text } = database.dialect;
  const now = database.time(Date.now());
  try {
    await database.run(
      `insert into chats (id, owner_id, name, model, last_seq, created_at, updated_at)
       select c.id, ${text(2)}, 'bench', 'bench', ${pairs}, ${time(3)}, ${time(3)} from ${rows}`,
      [database.list(ids), ownerId, now],
    );
    if (memberId !== undefined) {
      await database.run(
        `insert into chat_users (chat_id, user_id, created_at) select c.id, ${text(2)}, ${time(3)} from ${rows}`,
        [database.list(ids), memberId, now],
      );
    }
    if (pairs > 0) {
      // A common beginning and a number, as ids that order by time have them.
      const id = `'${randomUUID().slice(0, 24)}' || ${hex(`${ordinal} * 1000000 + n.i`)}`;
      await database.run(
        `insert into messages (id, chat_id, seq, user_id, state, prompt, reply, model, request_id, fingerprint,
           context_tokens, prompt_tokens, completion_tokens, created_at, updated_at)
         select ${id}, c.id, n.i, ${text(2)}, 'done', ${text(4)}, ${text(4)}, 'bench', c.id, 'bench',
           ${Math.ceil(characters / 2) + 8}, 10, 10, ${time(3)}, ${time(3)} from ${rows}, ${numbers(pairs)}`,
        [database.list(ids), ownerId, now, prose(characters)],
      );
    }
    await database.settle();
    return ids;
  } finally {
    await database.close();
  }
}

/** Text that compresses as prose does, or rather somewhat better. */
export function prose(/** @type {number} */ characters) {
  let text = "";
  for (let i = 1; text.length < characters; i++) text += `${WORDS[(i * i) % WORDS.length]}${i % 7 === 0 ? i : ""} `;
  return text.slice(0, characters);
}

/** A parameter that Postgres could not guess the type of. */
const typed = (/** @type {string} */ type) => (/** @type {number} */ place) => `cast($${place} as ${type})`;

const POSTGRES = {
  rows: "unnest($1::text[]) with ordinality as c(id, ordinality)",
  ordinal: "c.ordinality",
  numbers: (/** @type {number} */ most) => `generate_series(1, ${most}) n(i)`,
  hex: (/** @type {string} */ number) => `lpad(to_hex(${number}), 12, '0')`,
  time: typed("timestamptz"),
  text: typed("text"),
};

const SQLITE = {
  rows: "(select value as id, key from json_each(?1)) c",
  ordinal: "c.key",
  numbers: (/** @type {number} */ most) =>
    `(with recursive n(i) as (select 1 union all select i + 1 from n where i < ${most}) select i from n) n`,
  hex: (/** @type {string} */ number) => `printf('%012x', ${number})`,
  time: (/** @type {number} */ place) => `?${place}`,
  text: (/** @type {number} */ place) => `?${place}`,
};

async function open(/** @type {string} */ databaseUrl) {
  return databaseUrl.startsWith("file:") ? openSqlite(databaseUrl.slice("file:".length)) : openPostgres(databaseUrl);
}

async function openPostgres(/** @type {string} */ url) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return {
    dialect: POSTGRES,
    list: (/** @type {string[]} */ ids) => ids,
    time: (/** @type {number} */ ms) => new Date(ms),
    run: async (/** @type {string} */ sql, /** @type {unknown[]} */ params) => void (await client.query(sql, params)),
    // As autovacuum would in a while, and then in the middle of a measurement.
    settle: async () => void (await client.query("vacuum analyze messages")),
    close: () => client.end(),
  };
}

async function openSqlite(/** @type {string} */ file) {
  const { default: Database } = await import("libsql");
  const database = new Database(file);
  database.exec("pragma busy_timeout = 10000");
  return {
    dialect: SQLITE,
    list: (/** @type {string[]} */ ids) => JSON.stringify(ids),
    time: (/** @type {number} */ ms) => ms,
    run: async (/** @type {string} */ sql, /** @type {unknown[]} */ params) => void database.prepare(sql).run(params),
    settle: async () => void database.exec("pragma wal_checkpoint(truncate)"),
    close: async () => void database.close(),
  };
}
