import * as chatList from "../../lib/repo/chat-list.ts";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as groups from "../../lib/repo/groups.ts";
import * as messages from "../../lib/repo/messages.ts";
import * as templates from "../../lib/repo/templates.ts";
import type { Store } from "../../lib/store/store.ts";
import { ending, expired, newClaim } from "./chatting.ts";
import { BUSY, CHATS, LARGE, MEMBER, newestOf, OWNER, START_MS } from "./many.ts";

export type Work = (store: Store) => Promise<unknown>;

/** Later than anything that was filled in. */
const LATER = new Date(START_MS + 1_000_000_000);
const EARLIER = new Date(START_MS);
/** Where messages expire: up to when they have. A large chat has half of its messages left then, a young one none. */
export const EXPIRED = {
  "before all of them": new Date(START_MS - 1),
  "half way": new Date(START_MS + (LARGE.messages / 2) * 1_000),
};
/** The same work on a store in which messages of up to that instant have expired. */
export const expiring =
  (until: Date | null, work: Work): Work =>
  (store) =>
    work(expired(store, until));
/** As many as the young chat has, with room to spare. */
const PAGE = 20;

const claimIn = (chat: string, change: Partial<claims.Claim> = {}) =>
  newClaim({ id: chat }, { id: MEMBER, username: "" }, { at: LATER, ...change });

/**
 * All that is done to messages of a chat while people talk in it, what only reads first. In any chat of 30 messages or more
 * there is as much to answer.
 */
export const inChat = (chat: string, size = LARGE): Record<string, Work> => {
  const newest = { id: newestOf(chat, size), chatId: chat };
  return {
    "see the chat": (store) => chats.findForMember(store, chat, MEMBER),
    "see a message": (store) => messages.chatOf(store, newest.id, MEMBER),
    "find a message": (store) => messages.find(store, newest),
    "newest page": (store) => messages.page(store, chat, undefined, PAGE),
    "page before": (store) => messages.page(store, chat, 25, PAGE),
    running: (store) => messages.running(store, chat),
    changed: (store) => messages.changedSince(store, chat, EARLIER, PAGE),
    claim: (store) => claims.claim(store, claimIn(chat)),
    "claim off the record": (store) => claims.claim(store, claimIn(chat, { offTheRecord: true, contextPairs: 0 })),
    "ask to stop": (store) => messages.askToStop(store, chat, undefined, MEMBER),
    end: (store) => messages.end(store, { ...newest, requestId: "request" }, ending(), LATER),
    remove: (store) => messages.remove(store, newest, OWNER),
  };
};

/** What looks over many chats or people, and how many rows Postgres may read for it. */
export const LISTS: Record<string, { work: Work; most: number }> = {
  // 204 chats, each found in one place and shown from four.
  "chats of a member": { work: (store) => chatList.listForMember(store, MEMBER, { limit: 101 }), most: 1_500 },
  // Of two of them 1,000 messages are looked at, to count those unread.
  "chats of a member, unread": {
    work: (store) => chatList.listForMember(store, MEMBER, { limit: 101, after: EARLIER }),
    most: 3_500,
  },
  "chats of a member in a group": {
    work: (store) => chatList.listForMember(store, MEMBER, { limit: 101, groupId: "group-1" }),
    most: 100,
  },
  // 1,063 chats.
  "chats of a busy owner": { work: (store) => chatList.listForMember(store, BUSY, { limit: 101 }), most: 3_000 },
  "chats of a busy owner, a later page": {
    work: (store) =>
      chatList.listForMember(store, BUSY, {
        limit: 101,
        cursor: { updatedAt: new Date(START_MS + 50_000_000), id: "other-50000" },
      }),
    most: 3_000,
  },
  "chats of a stranger": { work: (store) => chatList.listForMember(store, "nobody", { limit: 101 }), most: 10 },
  "300 places in chats": {
    work: (store) =>
      chats.visibleAmong(
        store,
        Array.from({ length: 300 }, (_, i) => ({ chatId: `other-${i + 1}`, userId: i % 2 ? MEMBER : `user-${i + 100}` })),
      ),
    most: 900,
  },
  "who takes part": { work: (store) => chats.participants(store, CHATS.large), most: 300 },
  // 5 of their own, and 55 of the group that they are in.
  "templates of a member": { work: (store) => templates.listForMember(store, MEMBER, { limit: 101 }), most: 400 },
  "templates of a member in a group, a later page": {
    work: (store) => templates.listForMember(store, MEMBER, { limit: 101, groupId: "group-1", after: "template-3" }),
    most: 400,
  },
  "groups of a member": { work: (store) => groups.listForMember(store, MEMBER, undefined, 101), most: 10 },
};
