/** proxy-gpt itself, as `npm start` runs it: signed in, every request recorded and metered. */
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { call } from "../harness/http.mjs";
import { execute } from "./postgres.mjs";

/** What the server is told through its environment. */
export function productEnvironment({ port = 0, upstreamPort = 0, databaseUrl = "" }) {
  return {
    PORT: String(port),
    ADDRESS: "127.0.0.1",
    API_KEY: "sk-bench",
    API_URL: `http://127.0.0.1:${upstreamPort}`,
    DB_ADDRESS: databaseUrl,
    SIGNUP: "open",
  };
}

/** The first user to sign up is the admin. @returns {Promise<{ token: string, userId: string }>} a session's token, and whose */
export async function signUp(/** @type {number} */ port, /** @type {string} */ username) {
  const { status, text } = await call({
    port,
    path: "/user/signup",
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ username, password: randomBytes(12).toString("hex") }),
  });
  const { token, user } = status < 300 ? JSON.parse(text) : {};
  if (typeof token !== "string") throw new Error(`POST /user/signup answered ${status}: ${text.slice(0, 300)}`);
  return { token, userId: user.id };
}

/** Rows of the audit log, counted in the database itself: millions are too many to page through. */
export async function countEvents(/** @type {string} */ databaseUrl) {
  const sql = "select count(*) as count from events";
  if (!databaseUrl.startsWith("file:")) return Number((await execute(databaseUrl, sql))[0]?.count);
  const { default: Database } = await import("libsql");
  const database = new Database(databaseUrl.slice("file:".length), { readonly: true });
  try {
    return Number(/** @type {{ count: number }} */ (database.prepare(sql).get()).count);
  } finally {
    database.close();
  }
}

/** The audit log over HTTP: the admin reads it, and its newest rows are there. @returns {Promise<string | null>} what is wrong */
export async function whyAuditUnreadable(/** @type {number} */ port, /** @type {Record<string, string>} */ headers) {
  const { status, text } = await call({ port, path: "/system/events", headers });
  if (status !== 200) return `GET /system/events answered ${status}: ${text.slice(0, 200)}`;
  return text.includes("/v1/chat/completions") ? null : "GET /system/events does not list the requests";
}

export function productVersion(/** @type {string} */ project) {
  return JSON.parse(fs.readFileSync(path.join(project, "package.json"), "utf8")).version;
}
