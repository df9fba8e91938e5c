import * as users from "../../lib/repo/users.ts";
import { Failure } from "../failure.ts";
import type { Format } from "../print/printer.ts";
import { report, requireUser } from "./account.ts";
import { withDeps } from "./with-deps.ts";

/** Makes a user an admin, from their next request on. */
export async function grant(name: string, { format }: { format: Format }): Promise<void> {
  await withDeps(async ({ store, now }) => {
    const user = await requireUser(store, name);
    await users.update(store, user.id, { admin: true }, new Date(now()));
    await report(store, user.id, format, [`${user.username} is an admin.`]);
  });
}

/** Makes an admin a user like others, from their next request on. The last one who can sign in stays, unless forced. */
export async function revoke(name: string, { format, force = false }: { format: Format; force?: boolean }): Promise<void> {
  await withDeps(async ({ store, now }) => {
    const user = await requireUser(store, name);
    if (!(await users.revokeAdmin(store, user.id, new Date(now()), force))) {
      throw new Failure(`${user.username} is the last admin who can sign in. Grant another first, or repeat with --force.`);
    }
    await report(store, user.id, format, [`${user.username} is not an admin.`]);
  });
}
