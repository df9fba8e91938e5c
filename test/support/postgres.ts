import { randomBytes } from "node:crypto";
import pg from "pg";

/** A server on which tests may create databases, such as `postgres://postgres@127.0.0.1:5432/postgres`. */
export const postgresUrl: string | undefined = process.env.TEST_POSTGRES_URL || undefined;

/** A new, empty database. `drop()` ends the sessions that are still open in it. */
export async function freshDatabase(): Promise<{ url: string; drop(): Promise<void> }> {
  if (!postgresUrl) throw new Error("TEST_POSTGRES_URL is not set");
  const name = `proxy_gpt_test_${randomBytes(8).toString("hex")}`;
  await onServer(postgresUrl, `CREATE DATABASE ${name} TEMPLATE template0 ENCODING 'UTF8'`);
  const url = new URL(postgresUrl);
  url.pathname = name;
  return { url: url.href, drop: () => onServer(postgresUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`) };
}

/** For `describe.skipIf(skippedWithoutPostgres("Neon bridge"))`. */
export function skippedWithoutPostgres(what: string): boolean {
  return skippedWithout("TEST_POSTGRES_URL", what);
}

/** True when the variable is not set, after one line that says so. Where CI_NO_SKIP is set, it throws instead. */
export function skippedWithout(variable: string, what: string): boolean {
  if (process.env[variable]) return false;
  if (process.env.CI_NO_SKIP) throw new Error(`${what} must not be skipped here: ${variable} is not set`);
  process.stderr.write(`skipped: ${what} (set ${variable})\n`);
  return true;
}

async function onServer(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
