import { createInterface } from "node:readline";
import { Writable } from "node:stream";
import { isatty } from "node:tty";
import { newPassword } from "../../lib/http/fields.ts";
import { Failure } from "../failure.ts";

const STDIN = 0;
/** More than any password; what is longer was not meant as one. */
const MOST_BYTES = 4_096;
/** 32 characters, none of which is taken for another. */
const ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789";
const GENERATED_LENGTH = 20;

/**
 * The new password: as given, else asked for on a terminal, else all of standard input; `-` is standard input too. Null when
 * nothing was entered there. Throws a `Failure` that does not hold it where the rules refuse it.
 */
export async function readPassword(given: string | undefined): Promise<string | null> {
  const inArgument = given !== undefined && given !== "-";
  const text = inArgument ? given : isatty(STDIN) ? await ask() : await readInput();
  if (text === "" && given === undefined) return null;
  const parsed = newPassword.safeParse(text);
  if (!parsed.success) throw new Failure(`The password ${parsed.error.issues[0]?.message ?? "is not valid"}.`, 2);
  return parsed.data;
}

/** A password of 100 random bits. */
export function generatePassword(random: (size: number) => Buffer): string {
  return Array.from(random(GENERATED_LENGTH), (byte) => ALPHABET[byte % ALPHABET.length]).join("");
}

async function ask(): Promise<string> {
  // Readline edits the line and would show it; what it writes goes nowhere.
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output: nowhere, terminal: true, historySize: 0 });
  const entered = terminal[Symbol.asyncIterator]();
  const line = async (prompt: string) => {
    process.stderr.write(prompt);
    const { value, done } = await entered.next();
    process.stderr.write("\n");
    if (done) throw new Failure("No password was entered.");
    return value;
  };
  try {
    const password = await line("Password: ");
    if (password !== "" && (await line("Again: ")) !== password) throw new Failure("The two passwords differ.");
    return password;
  } finally {
    terminal.close();
  }
}

async function readInput(): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MOST_BYTES) throw new Failure("Standard input is too long for a password.", 2);
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks)
    .toString("utf8")
    .replace(/\r?\n$/, "");
  if (/[\r\n\0\uFFFD]/.test(text)) throw new Failure("Standard input is not one line of UTF-8.", 2);
  return text;
}
