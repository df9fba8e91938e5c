#!/usr/bin/env node
import { Command, CommanderError } from "commander";
import { ConfigError } from "../lib/config.ts";
import { version } from "../lib/version.ts";
import { Failure } from "./failure.ts";
import { addTransfer } from "./transfer/commands.ts";

const program = new Command("proxy-gpt")
  .description("One OpenAI key, a whole team.")
  .version(version)
  .enablePositionalOptions()
  .exitOverride()
  .showHelpAfterError("(proxy-gpt --help lists the commands)");

program
  .command("start")
  .description("Serve everything on this machine")
  .action(async () => (await import("./start.ts")).start());
program
  .command("migrate")
  .description("Bring the store's tables up to date")
  .action(async () => (await import("./migrate.ts")).migrate());
program
  .command("env")
  .description("Print every setting, as .env.example has it")
  .action(async () => void process.stdout.write((await import("./env.ts")).envExample()));
addTransfer(program);
const admin = program.command("admin").description("Users and the audit log");
// Its commands are read only where they are meant, so that a start does not wait for them.
if (process.argv.includes("admin")) (await import("./admin.ts")).addCommands(admin);

try {
  if (process.argv.length <= 2) program.help();
  loadEnvFile();
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}

/** What was foreseen is told, one line a problem; anything else is thrown on. 2 stands for wrong usage. */
function exitCodeOf(error: unknown): number {
  // Commander has told it by now; help is an "error" of exit code 0.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (!(error instanceof ConfigError || error instanceof Failure)) throw error;
  for (const problem of error instanceof ConfigError ? error.problems : [error.message]) console.error(problem);
  return error instanceof Failure ? error.exitCode : 1;
}

/** Settings may stand in `.env`; the environment's own win. */
function loadEnvFile(): void {
  try {
    process.loadEnvFile();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
