import { Option } from "commander";
import { FORMATS, type Format } from "./printer.ts";

/** `--format`, where a command prints records; `out` is where it does. */
export const formatOption = (formats: readonly Format[] = FORMATS, out: { isTTY?: boolean } = process.stdout): Option =>
  new Option("--format <format>", "how to print it")
    .choices(formats)
    .default(out.isTTY ? "table" : "jsonl", "table on a terminal, else jsonl");
