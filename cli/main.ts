#!/usr/bin/env node
import { Command } from "commander";
import { ConfigError } from "../lib/config.ts";
import { version } from "../lib/version.ts";

const program = new Command("proxy-gpt")
  .description("One OpenAI key, a whole team.")
  .version(version)
  .enablePositionalOptions()
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
program
  .command("admin")
  .description("Users and the audit log")
  .passThroughOptions()
  .allowUnknownOption()
  .helpOption(false)
  .argument("[words...]")
  .action(async (words: string[]) => (await import("./admin.ts")).admin(words));

try {
  if (process.argv.length <= 2) program.help();
  loadEnvFile();
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  for (const problem of error.problems) console.error(problem);
  process.exitCode = 1;
}

/** Settings may stand in `.env`; the environment's own win. */
function loadEnvFile(): void {
  try {
    process.loadEnvFile();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
