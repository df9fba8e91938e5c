import { createUser } from "../../lib/auth/accounts.ts";
import { type Format, type Listing, lines, printer } from "../print/printer.ts";
import { type Account, accounts, accountView } from "./account.ts";
import { generatePassword, readPassword } from "./password.ts";
import { withDeps } from "./with-deps.ts";

/** Adds a user. Without a password one is made, and printed this once. */
export async function create(
  username: string,
  given: string | undefined,
  { format, admin = false }: { format: Format; admin?: boolean },
): Promise<void> {
  const chosen = await readPassword(given);
  await withDeps(async (deps) => {
    const password = chosen ?? generatePassword(deps.random);
    const user = accountView(await createUser(deps, { username, password, admin }));
    const made = chosen === null;
    if (format === "table") {
      lines([`Created ${user.username}${admin ? ", an admin" : ""} (${user.id}).`, ...(made ? [`Password: ${password}`] : [])]);
    } else if (made) printer(format, withPassword)([{ ...user, password }]);
    else printer(format, accounts)([user]);
  });
}

const withPassword: Listing<Account & { password: string }> = { fields: [...accounts.fields, "password"], columns: [] };
