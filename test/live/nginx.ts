import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "../support/ports.ts";

export type Nginx = { url: string; stop(): Promise<void> };

/** Debian keeps it out of a user's path. */
const nginx = ["nginx", "/usr/sbin/nginx"].find((it) => spawnSync(it, ["-v"]).status === 0);

/** True where there is no nginx, after one line that says so. Where CI_NO_SKIP is set, it throws instead. */
export function skippedWithoutNginx(what: string): boolean {
  if (nginx) return false;
  if (process.env.CI_NO_SKIP) throw new Error(`${what} must not be skipped here: nginx is not installed`);
  process.stderr.write(`skipped: ${what} (install nginx)\n`);
  return true;
}

/** The configuration that docs/operations.md shows, with these addresses in the places of those that stand there. */
function documented(listenAt: string, servers: readonly string[]): string {
  const [, block] = /```nginx\n(.*?)```/s.exec(readFileSync("docs/operations.md", "utf8")) ?? [];
  if (!block) throw new Error("docs/operations.md shows no configuration of nginx");
  const rest = [...servers];
  const text = block
    .replace(/\blisten 80;/, () => `listen ${listenAt};`)
    .replaceAll(/\bserver [\d.]+:8080;/g, () => `server ${rest.shift()};`);
  if (!text.includes(listenAt) || rest.length > 0) throw new Error("the documented configuration has other places than these");
  return text;
}

/** Runs nginx as it is documented, in front of these servers, and resolves when it listens. */
export async function startNginx(servers: readonly string[]): Promise<Nginx> {
  const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-nginx-"));
  const listenAt = `127.0.0.1:${await freePort()}`;
  const kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  const temporary = kinds.map((kind) => `${kind}_temp_path ${folder}/${kind};`).join(" ");
  const configuration = join(folder, "nginx.conf");
  mkdirSync(join(folder, "conf.d"));
  writeFileSync(join(folder, "conf.d/proxy-gpt.conf"), documented(listenAt, servers));
  writeFileSync(
    configuration,
    `daemon off; pid ${folder}/pid; error_log stderr notice; events {} http { access_log off; ${temporary} include ${folder}/conf.d/*.conf; }`,
  );
  const child = spawn(nginx as string, ["-c", configuration, "-e", "stderr"], { stdio: ["ignore", "ignore", "pipe"] });
  const closed = once(child, "close");
  let said = "";
  await new Promise<void>((resolve, reject) => {
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (said.includes("start worker process ")) resolve();
    });
    child.once("error", reject);
    child.once("close", (code) => reject(new Error(`nginx ended with ${code}: ${said}`)));
  });
  return {
    url: `http://${listenAt}`,
    stop: async () => {
      child.kill("SIGTERM");
      await closed;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** nginx cannot choose one by itself. */
