import * as usage from "../../lib/repo/usage.ts";
import { type Format, type Listing, printer } from "../print/printer.ts";
import { withDeps } from "./with-deps.ts";

type Period = { since?: Date; until?: Date };

/** Prints requests and tokens by day (UTC) and user: every day of which a part is in the period. */
export async function printUsage({ format, since, until }: Period & { format: Format }): Promise<void> {
  await withDeps(async ({ store }) => {
    const to = until && dayOf(new Date(until.getTime() - 1));
    const days = await usage.list(store, { from: since && dayOf(since), to });
    printer(format, listing)(days.map((day) => ({ ...usageView(day), user_id: day.userId, username: day.username })));
  });
}

/** The UTC day of an instant, as `usage` has it. */
export const dayOf = (at: Date): string => at.toISOString().slice(0, 10);

/** What was used on one day. */
export const usageView = ({ day, requests, promptTokens, completionTokens }: usage.DayOfUse) => ({
  day,
  requests,
  prompt_tokens: promptTokens,
  completion_tokens: completionTokens,
});

type Use = ReturnType<typeof usageView> & { user_id: string; username: string };
const listing: Listing<Use> = {
  fields: ["day", "user_id", "username", "requests", "prompt_tokens", "completion_tokens"],
  columns: [
    { title: "DAY", text: (use) => use.day },
    { title: "USERNAME", text: (use) => use.username },
    { title: "REQUESTS", text: (use) => use.requests, right: true },
    { title: "PROMPT TOKENS", text: (use) => use.prompt_tokens, right: true },
    { title: "COMPLETION TOKENS", text: (use) => use.completion_tokens, right: true },
  ],
};
