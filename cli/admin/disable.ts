import { disableUser } from "../../lib/auth/accounts.ts";
import * as users from "../../lib/repo/users.ts";
import type { Format } from "../print/printer.ts";
import { report, requireUser } from "./account.ts";
import { withDeps } from "./with-deps.ts";

/** Shuts a user out at once. */
export async function disable(name: string, { format }: { format: Format }): Promise<void> {
  await withDeps(async (deps) => {
    const user = await requireUser(deps.store, name);
    await disableUser(deps, user.id);
    const sentence = `${user.username} is disabled. Every session and API key of theirs has ended.`;
    await report(deps.store, user.id, format, [sentence]);
  });
}

/** Lets a disabled user sign in again. */
export async function enable(name: string, { format }: { format: Format }): Promise<void> {
  await withDeps(async ({ store }) => {
    const user = await requireUser(store, name);
    await users.setDisabled(store.db, store, user.id, null);
    await report(store, user.id, format, [`${user.username} may sign in.`]);
  });
}
