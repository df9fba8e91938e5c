import { uuidv7 } from "uuidv7";
import * as chatList from "../../lib/repo/chat-list.ts";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as groups from "../../lib/repo/groups.ts";
import * as messages from "../../lib/repo/messages.ts";
import { type Store, storeError } from "../../lib/store/store.ts";
import { random } from "../support/seed.ts";
import { atATime, ending, newClaim } from "./chatting.ts";
import { at } from "./people.ts";

/** What a storm is about: a chat, the group that it is in, people, and ids of messages; the same for all who make it. */
export type Field = {
  chatId: string;
  groupId: string;
  ownerId: string;
  userIds: readonly string[];
  messageIds: readonly string[];
};
export type Storm = {
  /** The numbers that this storm's own prompts got. */
  given: number[];
  /** Every failure, by its code where the store gave one. */
  failures: string[];
};

/**
 * Does all that is done to a chat, in any order and at the same time: prompts, equal ones too, ends, deletions, stops, and
 * people who come and go.
 */
export async function storm(
  store: Store,
  field: Field,
  { operations, atOnce, seed }: { operations: number; atOnce: number; seed: number },
): Promise<Storm> {
  const chance = random(seed);
  const { chatId, groupId, ownerId } = field;
  const oneOf = <T>(list: readonly T[]) => list[Math.floor(chance() * list.length)] as T;
  const some = () => field.userIds.filter(() => chance() < 0.4);
  const key = () => ({ id: oneOf(field.messageIds), chatId });
  const given: number[] = [];
  const failures: string[] = [];
  const claim = async () => {
    const wanted = newClaim({ id: chatId }, { id: oneOf([ownerId, ...field.userIds]), username: "" }, { id: key().id });
    const claimed = await claims.claim(store, wanted);
    if (claimed?.message.requestId === wanted.requestId) given.push(claimed.message.seq);
  };
  const end = async () => {
    const found = await messages.find(store, key());
    const how = ending(chance() < 0.3 ? { errorCode: messages.INTERRUPTED } : {});
    if (found) await messages.end(store, found, how, at(1));
  };
  const kinds: (() => Promise<unknown>)[] = [
    ...[claim, claim, claim, claim, end, end, end],
    () => messages.remove(store, key(), ownerId),
    () => messages.askToStop(store, chatId, chance() < 0.5 ? key().id : undefined, ownerId),
    () => chats.addUsers(store, chatId, some(), at()),
    () => chats.removeUsers(store, chatId, some()),
    () => chats.update(store, chatId, ownerId, { name: uuidv7() }, at()),
    () => groups.addMembers(store, groupId, some(), chance() < 0.3 ? "owner" : "member", at()),
    () => groups.removeMembers(store, groupId, chance() < 0.2 ? [ownerId, ...some()] : some(), at()),
    () => chatList.listForMember(store, ownerId, { limit: 10, after: at(-1) }),
  ];
  const once = (kind: () => Promise<unknown>) => async () => {
    try {
      await kind();
    } catch (error) {
      failures.push(storeError(error)?.code ?? String(error));
    }
  };
  await atATime(
    atOnce,
    Array.from({ length: operations }, () => once(oneOf(kinds))),
  );
  return { given, failures };
}
