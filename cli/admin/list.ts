import * as users from "../../lib/repo/users.ts";
import { type Format, printer } from "../print/printer.ts";
import { accounts, accountView } from "./account.ts";
import { withDeps } from "./with-deps.ts";

const PAGE = 200;

/** Prints every user, by username. */
export async function list({ format }: { format: Format }): Promise<void> {
  await withDeps(async ({ store }) => {
    const print = printer(format, accounts);
    let after = "";
    for (;;) {
      const page = await users.list(store, after, PAGE);
      if (page.length > 0 || after === "") print(page.map(accountView));
      after = page.at(-1)?.username ?? "";
      if (page.length < PAGE) return;
    }
  });
}
