import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { text } from "node:stream/consumers";

export type Ran = { code: number | null; out: string; err: string };
/** What a program was started with, as the operating system shows it to others, and a file of settings that it was given. */
export type Started = { program: string; args: string[]; env: string; file?: { mode: string; text: string } };
export type Project = {
  folder: string;
  /** Beside it, for what is not the project's. */
  outside: string;
  /** What everything that is run there sees of the environment, besides its path. */
  env: Record<string, string>;
  /** Runs deploy.sh there. `input` comes on a terminal where `terminal` is set, else standard input is empty. */
  deploy(args: readonly string[], options?: { env?: Record<string, string>; terminal?: string }): Promise<Ran>;
  setSettings(settings: Record<string, string>): void;
  /** Every gcloud and node since the last call, oldest first. */
  started(): Started[];
  /** Whatever is there but the settings and what the build made: what was left behind. */
  leftBehind(): string[];
  /** The files in which the text stands, but for the settings themselves. */
  filesWith(text: string): string[];
  remove(): void;
};

/** Stands in front of a program on the path: notes what it is started with, keeps a copy of a file of settings, and becomes it. */
const witness = (name: string, program: string) => `#!/bin/sh
note=$(mktemp "$WITNESSED/$(date +%s%N).XXXXXX")
file=
for word in "$@"; do case $word in --env-vars-file=*) file=\${word#*=};; esac; done
{ printf '%s\\0' ${name} "$@"; } >"$note.args"
env >"$note.env"
[ ! -f "$file" ] || { ls -l "$file" | cut -c 1-10; cat "$file"; } >"$note.file"
exec ${program} "$@"
`;

/** One build serves every deployment of a test. */
const buildOnce = (npm: string) => `#!/bin/sh
[ -d dist/local ] || exec ${npm} "$@"
`;

/** A copy of the project, made of links to this one, in which \`deploy.sh\` may build and leave things. */
export function makeProject(): Project {
  const root = mkdtempSync(join(tmpdir(), "proxy-gpt-deploy-"));
  const at = (name: string) => join(root, name);
  for (const name of ["project", "outside", "bin", "witnessed", "tmp"]) mkdirSync(at(name));
  const folder = at("project");
  for (const part of readdirSync(".").filter((it) => !["dist", ".git", ".env"].includes(it)))
    symlinkSync(resolve(part), join(folder, part));
  for (const name of ["gcloud", "node"]) writeFileSync(at(`bin/${name}`), witness(name, programOf(name)), { mode: 0o755 });
  writeFileSync(at("bin/npm"), buildOnce(programOf("npm")), { mode: 0o755 });
  const files = () => readdirSync(root, { recursive: true, encoding: "utf8", withFileTypes: true }).filter((it) => it.isFile());

  const project: Project = {
    folder,
    outside: at("outside"),
    env: {},
    deploy: async (args, { env: more = {}, terminal } = {}) => {
      const command = join(folder, "deploy.sh");
      const [program, words] =
        terminal === undefined ? [command, [...args]] : ["script", ["-qec", [command, ...args].join(" "), "/dev/null"]];
      const child = spawn(program, words, {
        cwd: tmpdir(),
        env: {
          PATH: [at("bin"), process.env.PATH].join(delimiter),
          HOME: at("tmp"),
          TMPDIR: at("tmp"),
          WITNESSED: at("witnessed"),
          ...project.env,
          ...more,
        },
      });
      child.stdin.on("error", () => {}).end(terminal);
      const [[code], out, err] = await Promise.all([once(child, "close"), text(child.stdout), text(child.stderr)]);
      return { code, out, err };
    },
    setSettings: (settings) => {
      const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
      writeFileSync(join(folder, ".env"), lines.join(""));
    },
    started: () => {
      const notes = readdirSync(at("witnessed")).filter((it) => it.endsWith(".args"));
      const started = notes.sort().map((it) => {
        const base = at(`witnessed/${it.replace(/\.args$/, "")}`);
        const [program = "", ...args] = readFileSync(`${base}.args`, "utf8").split("\0").slice(0, -1);
        const [mode = "", ...lines] = existsSync(`${base}.file`) ? readFileSync(`${base}.file`, "utf8").split("\n") : [];
        return {
          program,
          args,
          env: readFileSync(`${base}.env`, "utf8"),
          ...(mode && { file: { mode, text: lines.join("\n") } }),
        };
      });
      rmSync(at("witnessed"), { recursive: true });
      mkdirSync(at("witnessed"));
      return started;
    },
    leftBehind: () =>
      [...readdirSync(at("tmp")), ...readdirSync(folder)].filter(
        (it) => !existsSync(resolve(it)) && ![".env", ".config", ".npm", "node-compile-cache"].includes(it),
      ),
    filesWith: (planted) =>
      files()
        .map((it) => join(it.parentPath, it.name))
        .filter((it) => it !== join(folder, ".env") && readFileSync(it).includes(planted)),
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
  return project;
}

const programOf = (name: string) =>
  name === "node" ? process.execPath : execFileSync("/bin/sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();
