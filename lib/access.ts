import { membersNamed } from "./auth/people.ts";
import { findNamed } from "./chat/own.ts";
import { type Claimed, claimPrompt, type Prompting } from "./chat/prompting.ts";
import { type Call, callerOf, type Guard } from "./http/endpoint.ts";
import { ApiError, forbid } from "./http/error.ts";
import type { People } from "./http/fields.ts";
import * as chats from "./repo/chats.ts";
import * as groups from "./repo/groups.ts";
import type { Caller } from "./repo/ledger.ts";
import * as messages from "./repo/messages.ts";
import * as sessions from "./repo/sessions.ts";
import * as templates from "./repo/templates.ts";
import * as users from "./repo/users.ts";
import { tokenHash } from "./token.ts";
import { isUuid } from "./uuid.ts";

// Every guard of the product. A guard answers what it loaded; a handler has nothing but what its guard granted.

/** Everyone, with or without a credential. */
export const anyone: Guard<unknown, { caller: Caller | null }> = {
  name: "anyone",
  open: true,
  admit: ({ caller }) => ({ caller }),
};

/** Whoever presents a valid credential. */
export const signedIn: Guard<unknown, { caller: Caller }> = {
  name: "signedIn",
  admit: (call) => ({ caller: callerOf(call) }),
};

/** Whoever signed in with a password. An API key is not enough: one that leaked must not make others or lock its owner out. */
export const signedInByPassword: Guard<unknown, { caller: Caller }> = {
  name: "signedInByPassword",
  admit: (call) => {
    if (callerOf(call).kind === "key") forbid("Sign in for this; an API key is not enough.");
    return { caller: callerOf(call) };
  },
};

/** An administrator. Others are told that the thing exists: that it does is no secret. */
export const admin: Guard<unknown, { caller: Caller }> = {
  name: "admin",
  admit: (call) => {
    const caller = callerOf(call);
    if (!caller.admin) forbid("Only an administrator may do this.");
    return { caller };
  },
};

/** One's own user record; an administrator's access to any. Another's looks as if it were absent. */
export const self: Guard<{ id?: string | undefined }, { caller: Caller; user: users.UserView }> = {
  name: "self",
  admit: async (call, { id }) => {
    const caller = callerOf(call);
    const wanted = id ?? caller.userId;
    const user = wanted === caller.userId || caller.admin ? await users.find(call.deps.store, wanted) : null;
    if (!user) throw new ApiError("not_found");
    return { caller, user };
  },
};

/** The same with a password behind it: a key that leaked must not rename its owner. */
export const selfByPassword: typeof self = {
  name: "selfByPassword",
  admit: async (call, input) => {
    await signedInByPassword.admit(call, input);
    return self.admit(call, input);
  },
};

/** Whoever presents a session's token, as a credential or, as documented, in the body; both must be the same. */
export const tokenHolder: Guard<{ token?: string | undefined }, { session: { id: string; userId: string } }> = {
  name: "tokenHolder",
  open: true,
  admit: async ({ caller, deps }, { token }) => {
    const hash = token === undefined ? null : tokenHash(token);
    const named = hash === null ? null : await sessions.findByHash(deps.store, hash, new Date(deps.now()));
    if (token === undefined && caller) return { session: { id: caller.sessionId, userId: caller.userId } };
    if (!named) throw new ApiError("unauthenticated");
    if (caller && caller.sessionId !== named.id) throw new ApiError("two_credentials");
    return { session: named };
  },
};

type GroupInput = { id?: string | undefined; group_id?: string | undefined };
type GroupGrant = { caller: Caller; group: groups.GroupView };

/** A member of a group. To anybody else it looks as if it were absent. */
export const groupMember: Guard<GroupInput, GroupGrant> = {
  name: "groupMember",
  admit: async (call, { id, group_id = id }) => {
    const caller = callerOf(call);
    if (group_id === undefined) throw new ApiError("invalid_input", { message: "group_id is missing.", param: "group_id" });
    const group = await groups.findForMember(call.deps.store, group_id, caller.userId);
    if (!group) throw new ApiError("not_found");
    return { caller, group };
  },
};

/** An owner of a group. */
export const groupOwner: Guard<GroupInput, GroupGrant> = {
  name: "groupOwner",
  admit: async (call, input) => {
    const grant = await groupMember.admit(call, input);
    if (grant.group.role !== "owner") forbid("Only an owner of the group may do this.");
    return grant;
  },
};

/** An owner of a group for any of its members, a member for themselves. Grants the ids of those who are named. */
export const groupOwnerOrLeaving: Guard<GroupInput & People, GroupGrant & { userIds: string[] }> = {
  name: "groupOwnerOrLeaving",
  admit: async (call, input) => {
    const grant = await groupMember.admit(call, input);
    const userIds = membersNamed(await groups.members(call.deps.store, grant.group.id), input);
    const others = userIds.some((id) => id !== grant.caller.userId);
    if (others && grant.group.role !== "owner") forbid("Only an owner of the group removes others.");
    return { ...grant, userIds };
  },
};

type ChatInput = { id?: string | undefined; chat_id?: string | undefined };
type ChatGrant = { caller: Caller; chat: chats.ChatView };

/** Who sees a chat: its owner, its users, and the members of its group. To anybody else it looks as if it were absent. */
export const chatMember: Guard<ChatInput, ChatGrant> = {
  name: "chatMember",
  admit: async (call, { id, chat_id = id }) => {
    const caller = callerOf(call);
    if (chat_id === undefined) throw new ApiError("invalid_input", { message: "id is missing.", param: "id" });
    const chat = await findNamed(call.deps, chat_id, caller.userId);
    if (!chat) throw new ApiError("not_found");
    return { caller, chat };
  },
};

/** The same, where a key of one's own may have no chat yet. */
export const chatMemberIfAny: Guard<{ chat_id: string }, { caller: Caller; chat: chats.ChatView | null }> = {
  name: "chatMemberIfAny",
  admit: async (call, { chat_id }) => {
    const caller = callerOf(call);
    const chat = await findNamed(call.deps, chat_id, caller.userId);
    if (!chat && isUuid(chat_id)) throw new ApiError("not_found");
    return { caller, chat };
  },
};

/** Refuses whoever sees a chat and does not own it. */
function owned<Grant extends { caller: Caller; chat: chats.ChatView | null }>(grant: Grant): Grant {
  if (grant.chat && grant.chat.ownerId !== grant.caller.userId) forbid("Only the owner of the chat may do this.");
  return grant;
}

/** The owner of a chat. */
export const chatOwner: Guard<ChatInput, ChatGrant> = {
  name: "chatOwner",
  admit: async (call, input) => owned(await chatMember.admit(call, input)),
};

/** The same, where a key of one's own may have no chat yet. */
export const chatOwnerIfAny: typeof chatMemberIfAny = {
  name: "chatOwnerIfAny",
  admit: async (call, input) => owned(await chatMemberIfAny.admit(call, input)),
};

/** The owner of a chat for any of its users, a user for themselves. Grants the ids of those who are named. */
export const chatOwnerOrLeaving: Guard<ChatInput & People, ChatGrant & { userIds: string[] }> = {
  name: "chatOwnerOrLeaving",
  admit: async (call, input) => {
    const grant = await chatMember.admit(call, input);
    const userIds = membersNamed(await chats.users(call.deps.store, grant.chat.id), input);
    const others = userIds.some((id) => id !== grant.caller.userId);
    if (others && grant.chat.ownerId !== grant.caller.userId) forbid("Only the owner of the chat removes others.");
    return { ...grant, userIds };
  },
};

/** Who sees the chat that a message is in. */
export const messageMember: Guard<{ id: string }, ChatGrant & { messageId: string }> = {
  name: "messageMember",
  admit: async (call, { id }) => {
    const caller = callerOf(call);
    const chatId = await messages.chatOf(call.deps.store, id, caller.userId);
    if (chatId === null) throw new ApiError("not_found");
    return { ...(await chatMember.admit(call, { id: chatId })), messageId: id };
  },
};

/** Who sees a chat, named by its own id or by that of a message in it. */
export const chatOrMessageMember: Guard<{ id: string }, ChatGrant & { messageId: string | undefined }> = {
  name: "chatOrMessageMember",
  admit: async (call, { id }) => {
    const caller = callerOf(call);
    const chat = await findNamed(call.deps, id, caller.userId);
    return chat ? { caller, chat, messageId: undefined } : messageMember.admit(call, { id });
  },
};

/** Who makes a chat or a template: anybody signed in, and in a group its members. */
export const maker: Guard<{ group_id?: string | undefined }, { caller: Caller; group: groups.GroupView | null }> = {
  name: "maker",
  admit: async (call, { group_id }) =>
    group_id === undefined ? { caller: callerOf(call), group: null } : groupMember.admit(call, { group_id }),
};

type TemplateGrant = { caller: Caller; template: templates.Template };

/** Who sees a template: its owner, and the members of the group that it is shared with. */
export const templateMember: Guard<{ id: string }, TemplateGrant> = {
  name: "templateMember",
  admit: async (call, { id }) => {
    const caller = callerOf(call);
    const template = await templates.findForMember(call.deps.store, id, caller.userId);
    if (!template) throw new ApiError("not_found");
    return { caller, template };
  },
};

/** The owner of a template; who shares it with a group is a member of that, too. */
export const templateOwner: Guard<{ id: string; group_id?: string | undefined }, TemplateGrant> = {
  name: "templateOwner",
  admit: async (call, { id, group_id }) => {
    const grant = await templateMember.admit(call, { id });
    if (grant.template.ownerId !== grant.caller.userId) forbid("Only the owner of the template may do this.");
    if (group_id) await groupMember.admit(call, { group_id });
    return grant;
  },
};

/**
 * Who sees a chat, for a prompt. The prompt is stored with the check, in one transaction: a second round trip would make
 * everybody wait, and between two of them somebody could have been removed.
 */
export const prompter = <Input>(
  read: (input: Input, deps: Call["deps"]) => Prompting,
): Guard<Input, { caller: Caller; chat: chats.ChatView; claimed: Claimed; prompting: Prompting }> => ({
  name: "prompter",
  admit: async (call, input) => {
    const caller = callerOf(call);
    const prompting = read(input, call.deps);
    const claimed = await claimPrompt(call, caller.userId, prompting);
    return { caller, chat: claimed.chat, claimed, prompting };
  },
});
