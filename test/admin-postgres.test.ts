import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startNeonBridge } from "./bridge/neon.ts";
import { PASSWORD } from "./support/app.ts";
import { buildCommand, type Command } from "./support/command.ts";
import { freshDatabase, skippedWithoutPostgres } from "./support/postgres.ts";

describe.skipIf(skippedWithoutPostgres("the admin command on Postgres and Neon"))("admin on a shared database", () => {
  let command: Command;
  beforeAll(async () => {
    command = await buildCommand({});
  });
  afterAll(() => command.remove());

  test.concurrent.each(["Postgres", "Neon"])(
    "on %s it asks for a migration first, and works after it",
    { timeout: 60_000 },
    async (kind) => {
      const { url, drop } = await freshDatabase();
      const bridge = kind === "Neon" ? await startNeonBridge(url) : null;
      const env: Record<string, string> = { DB_ADDRESS: url, ...(bridge && { NEON_ENDPOINT: bridge.endpoint }) };
      const admin = (...words: string[]) => command.run(["admin", ...words], { env });
      expect(await admin("list")).toMatchObject({ code: 1, out: "", err: expect.stringContaining("npm run migrate") });
      await command.run(["migrate"], { env });
      const created = await admin("create", "somebody", PASSWORD, "--admin");
      expect(created.json).toMatchObject([{ username: "somebody", admin: true }]);
      expect(await admin("revoke", "somebody")).toMatchObject({ code: 1, err: expect.stringContaining("--force") });
      const [user, reset, ...others] = await Promise.all([
        admin("user", created.json[0].id),
        admin("reset", "somebody", "another password"),
        ...[["events", "--text", "abc"], ["usage", "--since", "2026-01-01"], ["prune"]].map((words) => admin(...words)),
      ]);
      expect(user.json).toMatchObject([{ username: "somebody", sessions: [], usage: [] }]);
      expect(reset.json).toMatchObject(created.json);
      expect(others.map(({ code }) => code)).toEqual([0, 0, 0]);
      await bridge?.close();
      await drop();
    },
  );
});
