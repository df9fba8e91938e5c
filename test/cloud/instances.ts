import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort } from "../support/ports.ts";
import type { Google, Json } from "./google.ts";
import { unzip } from "./unzip.ts";

/**
 * Starts what was deployed, as the platform would: the uploaded files under functions-framework, with the variables that were
 * posted and those secrets that the function's account may read. What it may not read is a start that fails.
 */
export function startInstances(google: Google) {
  const folder = mkdtempSync(join(tmpdir(), "proxy-gpt-instances-"));
  symlinkSync(resolve("node_modules"), join(folder, "node_modules"));
  const instances = new Map<string, { url: string; child: ChildProcess }>();

  const start = async (name: string) => {
    const port = await freePort();
    const source = join(folder, String(google.functions.get(name).serviceConfig.revision));
    for (const [path, bytes] of unzip(google.sources.get(name) ?? Buffer.alloc(0))) {
      mkdirSync(dirname(join(source, path)), { recursive: true });
      writeFileSync(join(source, path), bytes);
    }
    // The framework that was uploaded, as the package's own start finds it.
    const command = [join(source, "framework/main.cjs"), `--target=${name}`, `--source=${source}`, `--port=${port}`];
    const env = { PATH: process.env.PATH, NODE_ENV: "production", K_SERVICE: name, ...environmentOf(google, name) };
    const child = spawn(process.execPath, command, { env, stdio: "ignore" });
    const instance = { url: `http://127.0.0.1:${port}`, child };
    instances.set(name, instance);
    return instance;
  };

  return {
    /** For `google.serve`. */
    answer: async (name: string, path: string): Promise<Response> => {
      const { url, child } = instances.get(name) ?? (await start(name));
      for (;;) {
        const answer = await fetch(url + path).catch(() => null);
        if (answer) return answer;
        if (child.exitCode !== null) return new Response(null, { status: 503 });
        await sleep(50);
      }
    },
    close: async () => {
      for (const { child } of instances.values()) {
        const closed = once(child, "close");
        if (child.exitCode === null && child.kill("SIGKILL")) await closed;
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** What an instance of the function sees of the settings. */
export function environmentOf(google: Google, name: string): Record<string, string> {
  const { environmentVariables, secretEnvironmentVariables, serviceAccountEmail } = google.functions.get(name).serviceConfig;
  const secrets = (secretEnvironmentVariables as Json[]).map(({ key, secret, version }) => {
    const { policy, versions = [] } = google.secrets.get(secret) ?? {};
    const mayRead = policy?.bindings.some(
      ({ role, members }) =>
        role === "roles/secretmanager.secretAccessor" && members.includes(`serviceAccount:${serviceAccountEmail}`),
    );
    return [key, mayRead ? versions[Number(version) - 1] : undefined];
  });
  return { ...environmentVariables, ...Object.fromEntries(secrets.filter(([, value]) => value !== undefined)) };
}
