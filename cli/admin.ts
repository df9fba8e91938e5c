import { type Command, Option } from "commander";
import * as z from "zod";
import { id, instant, username } from "../lib/http/fields.ts";
import { create } from "./admin/create.ts";
import { disable, enable } from "./admin/disable.ts";
import { printEvents } from "./admin/events.ts";
import { given, wholeNumber } from "./admin/given.ts";
import { grant, revoke } from "./admin/grant.ts";
import { list } from "./admin/list.ts";
import { prune } from "./admin/prune.ts";
import { reset } from "./admin/reset.ts";
import { printUsage } from "./admin/usage.ts";
import { user } from "./admin/user.ts";
import { formatOption } from "./print/format-option.ts";
import { outputFailed } from "./print/output-failed.ts";
import { FORMATS, type Format } from "./print/printer.ts";

const MOST_EVENTS = 1_000_000_000;

/** Adds the operator's commands. They work on the store itself, beside a running server or without one. */
export function addCommands(admin: Command): void {
  process.stdout.on("error", outputFailed);
  admin.showHelpAfterError(false);
  const add = (usage: string, description: string, formats: readonly Format[] = FORMATS) =>
    admin.command(usage).description(description).addOption(formatOption(formats));

  add("list", "List every user").action(list);
  add("user <id>", "Show a user, by id or name, with their sessions, API keys and usage", ["table", "jsonl"]).action(user);
  secretive(add("create", "Add a user"))
    .argument("<name>", "their username", given(username))
    .argument("[password]", PASSWORD)
    .option("--admin", "make them an admin")
    .action(create);
  secretive(add("reset <name>", "Give a user a new password, and end every session and API key of theirs"))
    .argument("[password]", PASSWORD)
    .action(reset);
  add("grant <name>", "Make a user an admin").action(grant);
  add("revoke <name>", "Make an admin a user like others").option("--force", "even the last one").action(revoke);
  add("disable <name>", "Shut a user out, and end every session and API key of theirs").action(disable);
  add("enable <name>", "Let a disabled user sign in again").action(enable);
  add("events", "Search the audit log, newest first")
    .option("--user <user>", "of this user, by id or name")
    .option("--group <id>", "in this group", given(id))
    .option("--chat <id>", "in this chat", given(id))
    .option("--endpoint <name>", "of this endpoint, such as user.login")
    .option("--model <name>", "answered by this model")
    .option("--status <code>", "answered with this status", wholeNumber(100, 599))
    .option("--since <time>", "since then: ISO 8601, or a date for its midnight in UTC", given(instant))
    .addOption(new Option("--until <time>", "before then").argParser(given(instant)).conflicts("follow"))
    .option("--text <text>", "with this in the path, query or bodies", given(z.string().min(3, "is shorter than 3 characters")))
    .option("--limit <number>", "at most so many (default: 100; to begin with --follow, 10)", wholeNumber(1, MOST_EVENTS))
    .option("--follow", "oldest first, and go on with each event that ends, until interrupted")
    .option("--bodies", "with what was sent and answered")
    .action(printEvents);
  add("usage", "Show requests and tokens by day and user")
    .option("--since <time>", "from that day (UTC) on", given(instant))
    .option("--until <time>", "before then", given(instant))
    .action(printUsage);
  add(
    "prune",
    "Delete events older than RETENTION_DAYS, messages older than EXPIRE_HOURS, expired sessions and old sign-in counters",
  ).action(prune);
}

const PASSWORD = "the new password; - or nothing: standard input, or asked for on a terminal";

/** What Commander says of a word that it does not know may hold a password. */
const secretive = (command: Command) =>
  command.configureOutput({
    outputError: (text, write) =>
      write(
        text.startsWith("error: unknown option")
          ? "error: unknown option; a password that begins with - comes after -- or on standard input\n"
          : text,
      ),
  });
