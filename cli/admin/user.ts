import { sessionView } from "../../functions/user/views.ts";
import * as sessions from "../../lib/repo/sessions.ts";
import * as usage from "../../lib/repo/usage.ts";
import { dayText, type Format, instantText, json, lines } from "../print/printer.ts";
import { type Column, table } from "../print/table.ts";
import { accounts, accountView, requireUser } from "./account.ts";
import { dayOf, usageView } from "./usage.ts";
import { withDeps } from "./with-deps.ts";

const USAGE_DAYS = 30;
const DAY_MS = 86_400_000;

type Session = ReturnType<typeof sessionView>;
type Use = ReturnType<typeof usageView>;

/** Prints one user, with their sign-ins and API keys (never a token) and what they used in the last 30 days. */
export async function user(idOrName: string, { format }: { format: Exclude<Format, "csv"> }): Promise<void> {
  await withDeps(async ({ store, now }) => {
    const found = await requireUser(store, idOrName);
    const from = dayOf(new Date(now() - (USAGE_DAYS - 1) * DAY_MS));
    const [live, days] = await Promise.all([
      sessions.listAll(store, found.id, new Date(now())),
      usage.list(store, { userId: found.id, from }),
    ]);
    const record = { ...accountView(found), sessions: live.map(sessionView), usage: days.map(usageView) };
    if (format === "jsonl") return lines([json(record)]);
    const width = process.stdout.columns ?? Number.POSITIVE_INFINITY;
    lines([
      ...table(accounts.columns, width)([record]),
      "",
      "Sign-ins and API keys",
      ...table(sessionColumns, width)(record.sessions),
      "",
      `The last ${USAGE_DAYS} days`,
      ...table(useColumns, width)(record.usage),
    ]);
  });
}

const sessionColumns: readonly Column<Session>[] = [
  { title: "ID", text: (session) => session.id, whole: true },
  { title: "KIND", text: (session) => session.kind },
  { title: "LABEL", text: (session) => session.label },
  { title: "HINT", text: (session) => session.hint },
  { title: "CREATED", text: (session) => dayText(session.created_at) },
  { title: "LAST USED", text: (session) => instantText(session.last_used_at) },
  { title: "EXPIRES", text: (session) => (session.expires_at === null ? "never" : dayText(session.expires_at)) },
];
const useColumns: readonly Column<Use>[] = [
  { title: "DAY", text: (use) => use.day },
  { title: "REQUESTS", text: (use) => use.requests, right: true },
  { title: "PROMPT TOKENS", text: (use) => use.prompt_tokens, right: true },
  { title: "COMPLETION TOKENS", text: (use) => use.completion_tokens, right: true },
];
