import { resetPassword } from "../../lib/auth/accounts.ts";
import { Failure } from "../failure.ts";
import type { Format } from "../print/printer.ts";
import { report, requireUser } from "./account.ts";
import { readPassword } from "./password.ts";
import { withDeps } from "./with-deps.ts";

/** Gives a user a new password; every session and API key of theirs ends with the old one. */
export async function reset(name: string, given: string | undefined, { format }: { format: Format }): Promise<void> {
  await withDeps(async (deps) => {
    const user = await requireUser(deps.store, name);
    const password = await readPassword(given);
    if (password === null) throw new Failure("There is no password: give it as an argument or on standard input.", 2);
    await resetPassword(deps, user, password);
    await report(deps.store, user.id, format, [
      `${user.username} has a new password. Every session and API key of theirs has ended.`,
      ...(user.disabledAt ? [`${user.username} is still disabled.`] : []),
    ]);
  });
}
