import type { Call, Guard } from "./http/endpoint.ts";
import { ApiError } from "./http/error.ts";
import type { Caller } from "./repo/ledger.ts";
import * as sessions from "./repo/sessions.ts";
import * as users from "./repo/users.ts";
import { tokenHash } from "./token.ts";

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
  admit: ({ caller }) => ({ caller: required(caller) }),
};

/** Whoever signed in with a password. An API key is not enough: one that leaked must not make others or lock its owner out. */
export const signedInByPassword: Guard<unknown, { caller: Caller }> = {
  name: "signedInByPassword",
  admit: ({ caller }) => {
    if (required(caller).kind === "key")
      throw new ApiError("forbidden", { message: "Sign in for this; an API key is not enough." });
    return { caller: required(caller) };
  },
};

/** An administrator. Others are told that the thing exists: that it does is no secret. */
export const admin: Guard<unknown, { caller: Caller }> = {
  name: "admin",
  admit: (call) => {
    const caller = required(call.caller);
    if (!caller.admin) throw new ApiError("forbidden", { message: "Only an administrator may do this." });
    return { caller };
  },
};

/** One's own user record; an administrator's access to any. Another's looks as if it were absent. */
export const self: Guard<{ id?: string | undefined }, { caller: Caller; user: users.UserView }> = {
  name: "self",
  admit: async (call, { id }) => {
    const caller = required(call.caller);
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

function required(caller: Call["caller"]): Caller {
  if (!caller) throw new ApiError("unauthenticated");
  return caller;
}
