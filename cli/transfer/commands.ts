import type { Command } from "commander";
import { formatOption } from "../print/format-option.ts";
import { FORMATS } from "../print/printer.ts";

/** Adds `export` and `import`. What they do is read only where it is meant, so that a start does not wait for it. */
export function addTransfer(program: Command): void {
  program
    .command("export")
    .description("Write all that the store has to a file, to move or to keep it")
    .argument("[file]", "a new file; - or nothing: standard output")
    .addOption(formatOption(FORMATS, process.stderr))
    .addHelpText("after", EXPORT_HELP)
    .action(async (file, options) => (await import("../export.ts")).exportStore(file, options));
  program
    .command("import")
    .description("Add the rows of an export to an empty store")
    .argument("[file]", "an export; - or nothing: standard input")
    .option("--merge", "also to a store that has rows: those that are there stay as they are")
    .addOption(formatOption())
    .addHelpText("after", IMPORT_HELP)
    .action(async (file, options) => (await import("../import.ts")).importStore(file, options));
}

const EXPORT_HELP = `
Without a file, or with -, the rows go to standard output, and the counts to standard error.
The file holds everything: what was said, the audit log, and the hashes of passwords and tokens. It is made with mode 0600, and one
that is there already is not written over. Keep it as you keep the database.
It is one state of the store, beside a running server too. On Neon, which is asked over HTTP, each batch is of its own time: export
a branch, which is a state of its own, or let nobody write meanwhile.`;

const IMPORT_HELP = `
Without a file, or with -, the export is read from standard input. A file is read twice: nothing is written before all of it was
checked. Of standard input each batch is checked before it is written.
The store that DB_ADDRESS names is migrated first, and must be empty. With --merge it need not be: rows whose primary keys are there
stay as they are, so that what was interrupted goes on, and what was imported before changes nothing. Let no server run on it.`;
