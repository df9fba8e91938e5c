import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { ConfigError } from "../../lib/config.ts";
import { type Deployed, healthOf, healthTable } from "./health.ts";
import { planOf, secretNames, secretValue } from "./plan.ts";
import { type Policy, policyFor } from "./policy.ts";

// The part of deploy.sh that knows settings. A secret's value leaves it on standard output only, for a pipe.

const words: Record<string, (...args: string[]) => void | Promise<void>> = {
  /** `plan FOLDER PROJECT NAME…`: checks the settings; writes NAME.env for gcloud, NAME.secrets, and secrets, the names of all. */
  plan(folder = "", project = "", ...names) {
    const plans = planOf(names, process.env, project);
    for (const { name, variables, secrets } of plans) {
      const lines = Object.entries(variables).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
      write(join(folder, `${name}.env`), lines);
      write(join(folder, `${name}.secrets`), secrets);
    }
    write(
      join(folder, "secrets"),
      secretNames.filter((it) => plans.some(({ secrets }) => secrets.includes(it))),
    );
  },
  /** `secrets`: the names of all settings that are secrets. */
  secrets() {
    for (const name of secretNames) console.log(name);
  },
  /** `value SETTING`: a secret, as it is. */
  value(setting = "") {
    process.stdout.write(secretValue(setting, process.env) ?? "");
  },
  /** `version SETTING` < its newest version: prints that one's number if it has the value that is set. */
  async version(setting = "") {
    const said = await text(process.stdin);
    // gcloud has told why.
    if (said === "") return;
    const { name, payload } = JSON.parse(said) as { name: string; payload: { data: string } };
    const known = Buffer.from(payload.data, "base64").toString();
    if (known === secretValue(setting, process.env)) console.log(name.split("/").at(-1));
  },
  /** `policy ACCOUNTS ALLOWED` < a secret's policy: prints what it has to be, or nothing. Both are lists, separated by commas. */
  async policy(accounts = "", allowed = "") {
    const policy = policyFor(JSON.parse(await text(process.stdin)) as Policy, listed(accounts), listed(allowed));
    if (policy) console.log(JSON.stringify(policy));
  },
  /** `health` < lines of name, address and address of its own: prints a table; fails unless all are well. */
  async health() {
    const lines = (await text(process.stdin)).split("\n").filter(Boolean);
    const deployed = lines.map((line): Deployed => {
      const [name = "", url = "", uri = ""] = line.split("\t");
      return { name, url, uri };
    });
    const rows = await healthOf(deployed);
    for (const line of healthTable(rows)) console.log(line);
    if (rows.some(({ status }) => status !== "ok")) process.exitCode = 1;
  },
};

const listed = (text: string) => text.split(",").filter(Boolean);
const write = (path: string, lines: readonly string[]) =>
  writeFileSync(path, lines.map((line) => `${line}\n`).join(""), { mode: 0o600 });

try {
  process.loadEnvFile();
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
}
try {
  const [word = "", ...args] = process.argv.slice(2);
  await words[word]?.(...args);
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  for (const problem of error.problems) console.error(problem);
  process.exitCode = 1;
}
