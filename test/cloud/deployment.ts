import { spawnSync } from "node:child_process";
import { expect } from "vitest";
import { startNeonBridge } from "../bridge/neon.ts";
import { startUpstashBridge } from "../bridge/upstash.ts";
import { freshDatabase, postgresUrl, skippedWithoutPostgres } from "../support/postgres.ts";
import { redisUrl, skippedWithoutRedis } from "../support/redis.ts";
import { PROJECT, REGION, startGoogle } from "./google.ts";
import { startInstances } from "./instances.ts";
import { makeProject, type Started } from "./project.ts";

export const KEY = "sk-planted-0123456789abcdef";
export const CODE = "planted-code-of-signup";
export const PASS = "planted-pass";
export const place = ["--project", PROJECT, "--region", REGION];
export const account = (name: string) => `proxy-gpt-${name}@${PROJECT}.iam.gserviceaccount.com`;

/** True where something is missing that a deployment needs, after a line that says so. */
export function skippedWithoutGcloud(what: string): boolean {
  const noGcloud = spawnSync("gcloud", ["--version"]).status !== 0;
  if (noGcloud) process.stderr.write(`skipped: ${what} (gcloud is not installed)\n`);
  return noGcloud || [skippedWithoutPostgres(what), skippedWithoutRedis(what)].some(Boolean);
}

export type Deployment = Awaited<ReturnType<typeof startDeployment>>;

/** A project to deploy from, a stand-in of Google to deploy to, and the stores that both use. */
export async function startDeployment() {
  const database = await freshDatabase();
  const [neon, upstash] = await Promise.all([startNeonBridge(String(postgresUrl)), startUpstashBridge(String(redisUrl))]);
  const project = makeProject();
  const google = await startGoogle(project.outside);
  const instances = startInstances(google);
  project.env = google.env;
  google.serve = instances.answer;
  const settings = {
    API_KEY: KEY,
    DB_ADDRESS: `postgresql://user:${PASS}@ep-planted.neon.tech${new URL(database.url).pathname}`,
    NEON_ENDPOINT: neon.endpoint,
    UPSTASH_REDIS_REST_URL: upstash.url,
    UPSTASH_REDIS_REST_TOKEN: upstash.token,
    SIGNUP: "code",
    SIGNUP_CODE: CODE,
    MODERATE: "flag",
    PORT: "1234",
  };
  const values = [KEY, CODE, PASS, settings.DB_ADDRESS, upstash.token];

  return {
    neon,
    upstash,
    project,
    google,
    settings,
    /** Forgets what was asked and started, and gives the project its settings again. */
    begin: () => {
      google.asked = [];
      project.setSettings(settings);
      project.started();
    },
    /** Requests that change something, in order. */
    changes: () => google.asked.map(({ what }) => what).filter((what) => !what.startsWith("GET") && !/:getIamPolicy$/.test(what)),
    posted: (pattern: RegExp) => google.asked.filter(({ what }) => pattern.test(what)),
    /** No value of a secret is where anyone else could see it, but in the request that makes a version of it. */
    expectNoValues: (ran: { out: string; err: string }, started: Started[]) => {
      const asked = google.asked.filter(({ what }) => !what.endsWith(":addVersion"));
      for (const encoded of values.flatMap((it) => [it, Buffer.from(it).toString("base64")])) {
        expect(ran.out + ran.err, "printed").not.toContain(encoded);
        expect(JSON.stringify(started), "arguments, environment or settings of a program").not.toContain(encoded);
        expect(JSON.stringify(asked), "a request").not.toContain(encoded);
        expect(project.filesWith(encoded), "files").toEqual([]);
      }
      expect(project.leftBehind()).toEqual([]);
    },
    close: async () => {
      await instances.close();
      await Promise.all([google.close(), neon.close(), upstash.close()]);
      project.remove();
      await database.drop();
    },
  };
}
