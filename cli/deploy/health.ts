import { setTimeout as sleep } from "node:timers/promises";

/** Google's permission for everyone, and a first instance, may take as long. */
const PATIENCE_MS = 60_000;
const EVERY_MS = 2_000;
const ANSWER_WITHIN_MS = 20_000;

export type Deployed = { name: string; url: string; uri: string };
export type Health = Deployed & { status: string };

/** Asks each for its health, until it is well or the patience ends. `status`: its own word, or what came instead. */
export function healthOf(deployed: readonly Deployed[], patienceMs = PATIENCE_MS): Promise<Health[]> {
  const until = Date.now() + patienceMs;
  return Promise.all(
    deployed.map(async (one) => {
      for (;;) {
        const status = await ask(`${one.url}/health`);
        if (status === "ok" || Date.now() + EVERY_MS > until) return { ...one, status };
        await sleep(EVERY_MS);
      }
    }),
  );
}

/** The table that a deployment ends with. */
export function healthTable(rows: readonly Health[]): string[] {
  const lines = [["FUNCTION", "HEALTH", "ADDRESS OF ITS OWN"], ...rows.map(({ name, status, uri }) => [name, status, uri])];
  const widths = [0, 1].map((column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  return lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

async function ask(url: string): Promise<string> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
    const body = await answer.json().catch(() => null);
    return typeof body?.status === "string" && /^[a-z]+$/.test(body.status) ? body.status : `answered ${answer.status}`;
  } catch {
    return "no answer";
  }
}
