import { userView } from "../../functions/user/views.ts";
import { anyUsername, id } from "../../lib/http/fields.ts";
import * as users from "../../lib/repo/users.ts";
import type { Store } from "../../lib/store/store.ts";
import { Failure } from "../failure.ts";
import { dayText, type Format, type Listing, lines, printer } from "../print/printer.ts";
import { visible } from "../print/visible.ts";

/** A user as the operator sees them. */
export const accountView = (user: users.UserView) => ({
  ...userView(user),
  disabled_at: user.disabledAt?.toISOString() ?? null,
});
export type Account = ReturnType<typeof accountView>;

export const accounts: Listing<Account> = {
  fields: ["id", "username", "name", "admin", "created_at", "disabled_at"],
  columns: [
    { title: "ID", text: (user) => user.id, whole: true },
    { title: "USERNAME", text: (user) => user.username },
    { title: "NAME", text: (user) => user.name },
    { title: "ADMIN", text: (user) => (user.admin ? "yes" : "no") },
    { title: "CREATED", text: (user) => dayText(user.created_at) },
    { title: "DISABLED", text: (user) => dayText(user.disabled_at) },
  ],
};

/**
 * The user of an id or a username, in either case of letters. An id is looked for first, as someone may have signed up under
 * a name that is another's id. Throws a `Failure`.
 */
export async function requireUser(store: Store, given: string): Promise<users.UserView> {
  const name = anyUsername.safeParse(given).data;
  const byId = name !== undefined && id.safeParse(name).success ? await users.find(store, name) : null;
  const found = byId ?? (name === undefined ? null : await users.findByUsername(store, name));
  if (!found) throw new Failure(`There is no user ${JSON.stringify(visible(given))}.`);
  return found;
}

/** Says what was done to a user: people get the sentences, programs the record. */
export async function report(store: Store, userId: string, format: Format, sentences: readonly string[]): Promise<void> {
  if (format === "table") return lines(sentences);
  const user = await users.find(store, userId);
  if (user) printer(format, accounts)([accountView(user)]);
}
