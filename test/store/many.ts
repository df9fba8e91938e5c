import type { Store } from "../../lib/store/store.ts";
import type { Dialect } from "./plans.ts";

/** How many messages a large chat has, and how many chats there are that are others'. */
export type Size = { messages: number; others: number };
export const LARGE: Size = { messages: 100_000, others: 100_000 };

/** The chats that are looked at. They are `user-1`'s, in a group of 50 people, `user-1` to `user-50`. */
export const CHATS = {
  /** Nothing was said in it. */
  empty: "chat-empty",
  /** 30 messages. */
  young: "chat-young",
  /** As many messages as there are. */
  large: "chat-large",
  /** `ON_RECORD` messages on the record, and after them as many as there are off the record. */
  quiet: "chat-quiet",
} as const;
export const ON_RECORD = 20;
export const OWNER = "user-1";
/** Somebody who sees these chats, and 200 others. */
export const MEMBER = "user-2";
/** One of the 50 people who own 1,000 chats each. */
export const BUSY = "user-51";
/** A chat's newest message, whose reply is being made. */
export const newestOf = (chat: string, { messages }: Size = LARGE): string =>
  `${chat}-${chat === CHATS.young ? 30 : chat === CHATS.quiet ? messages + ON_RECORD : messages}`;

/** The instant of the first message. Each is a second after the one before. */
export const START_MS = Date.UTC(2026, 0, 1);
/** How many rows one statement makes, so that none takes long. */
const ROWS_AT_ONCE = 10_000;
const PEOPLE = 10_000;
const GROUPS = 1_999;
const MEMBERSHIPS = 50_000;
const TEMPLATES = 10_000;

/** Fills a new store with those chats, among many of other people. */
export async function fill(store: Store, dialect: Dialect, size: Size = LARGE): Promise<void> {
  const at = (seconds: string | number) =>
    dialect === "postgres" ? `to_timestamp(${START_MS / 1000} + ${seconds})` : `(${START_MS} + (${seconds}) * 1000)`;
  const insert = async (count: number, target: string, values: string) => {
    for (let from = 1; from <= count; from += ROWS_AT_ONCE) {
      const to = Math.min(count, from + ROWS_AT_ONCE - 1);
      const numbers = `with recursive n(i) as (select ${from} union all select i + 1 from n where i < ${to})`;
      await store.run([{ sql: `insert into ${target} ${numbers} select ${values} from n`, params: [] }]);
    }
  };
  const started = at(0);
  const no = dialect === "postgres" ? "false" : "0";
  const users = "users (id, username, password_hash, admin, created_at, updated_at)";
  await insert(PEOPLE, users, `'user-' || i, 'name-' || i, '', ${no}, ${started}, ${started}`);
  const groups = "groups (id, name, description, created_at, updated_at)";
  await insert(1 + GROUPS, groups, `'group-' || i, 'A group', '', ${started}, ${started}`);
  const members = "group_members (group_id, user_id, role, created_at)";
  await insert(50, members, `'group-1', 'user-' || i, case when i = 1 then 'owner' else 'member' end, ${started}`);
  await insert(MEMBERSHIPS, members, `'group-' || (2 + i % ${GROUPS}), 'user-' || (51 + i % 9949), 'member', ${started}`);

  const templates = "templates (id, owner_id, group_id, name, created_at, updated_at, text)";
  const sharedWith = `case when i % 2 = 0 then 'group-' || (2 + i % ${GROUPS}) end`;
  await insert(
    TEMPLATES,
    templates,
    `'template-' || i, 'user-' || (51 + i % 9949), ${sharedWith}, 'T', ${started}, ${started}, 'x'`,
  );
  const ofGroup = "'template-g' || i, 'user-' || (i % 49 + 2), 'group-1', 'T'";
  await insert(55, templates, `${ofGroup}, ${started}, ${started}, 'x'`);
  await insert(5, templates, `'template-m' || i, '${MEMBER}', null, 'T', ${started}, ${started}, 'x'`);

  const chats = "chats (id, owner_id, group_id, name, model, system_prompt, last_seq, created_at, updated_at)";
  const lengths = { empty: 0, young: 30, large: size.messages, quiet: size.messages + ON_RECORD };
  for (const [name, length] of Object.entries(lengths))
    await insert(1, chats, `'chat-${name}', '${OWNER}', 'group-1', 'A', 'gpt-4o', null, ${length}, ${started}, ${at(length)}`);
  const owner = "case when i % 2 = 0 then 'user-' || (51 + i / 2 % 50) else 'user-' || (101 + i % 9000) end";
  const group = `case when i % 4 = 1 then 'group-' || (2 + i % ${GROUPS}) end`;
  await insert(size.others, chats, `'other-' || i, ${owner}, ${group}, 'B', 'gpt-4o', null, 1, ${started}, ${at("i")}`);
  const chatUsers = "chat_users (chat_id, user_id, created_at)";
  await insert(size.others, chatUsers, `'other-' || i, 'user-' || (101 + i * 7 % 9899), ${started}`);
  await insert(200, chatUsers, `'other-' || i, '${MEMBER}', ${started}`);

  const messages = `messages (id, chat_id, seq, user_id, state, prompt, reply, model, request_id, fingerprint, context_tokens,
    created_at, updated_at)`;
  const said = `'What is ' || i || '?', 'It is a number, as are those before it and after it, and none of them ends.'`;
  const message = (chat: string, seq: string, last: number, tokens: string) => `
    ${chat} || '-' || ${seq}, ${chat}, ${seq}, 'user-' || (i % 50 + 1),
    case when ${seq} = ${last} then 'streaming' when ${tokens} is null then 'off_record' else 'done' end, ${said},
    'gpt-4o', 'request', 'print', case when ${seq} = ${last} then null else ${tokens} end, ${at("i")}, ${at("i")}`;
  await insert(lengths.young, messages, message(`'${CHATS.young}'`, "i", lengths.young, "30"));
  await insert(lengths.large, messages, message(`'${CHATS.large}'`, "i", lengths.large, "30"));
  await insert(
    lengths.quiet,
    messages,
    message(`'${CHATS.quiet}'`, "i", lengths.quiet, `case when i <= ${ON_RECORD} then 30 end`),
  );
  await insert(size.others, messages, message("'other-' || i", "1", 0, "30"));
}
