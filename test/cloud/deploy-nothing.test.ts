import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Deployment, PASS, place, skippedWithoutGcloud, startDeployment } from "./deployment.ts";
import { PROJECT, REGION } from "./google.ts";

describe.skipIf(skippedWithoutGcloud("what deploy.sh refuses"))("deploy.sh makes nothing", () => {
  let cloud: Deployment;
  beforeAll(async () => {
    cloud = await startDeployment();
  });
  beforeEach(() => cloud.begin());
  afterAll(() => cloud?.close());

  test("and asks nothing in a dry run, without an account: every command is printed", async () => {
    const ran = await cloud.project.deploy(["user", "chat", "--dry-run", ...place], {
      env: { CLOUDSDK_AUTH_ACCESS_TOKEN_FILE: "" },
    });
    expect(ran).toMatchObject({ code: 0, err: "" });
    const started = cloud.project.started();
    expect(started.filter(({ program }) => program === "gcloud")).toEqual([]);
    expect(cloud.google.asked).toEqual([]);
    cloud.expectNoValues(ran, started);
    const lines = ran.out.trim().split("\n");
    expect(lines.map((line) => /^(\(.*\) \| )?(gcloud [a-z-]+ [a-z-]+|npm run build|node .* migrate)/.exec(line)?.[2])).toEqual([
      "gcloud services enable",
      "npm run build",
      "node dist/local/main.mjs migrate",
      ...Array(4).fill("gcloud secrets create"),
      ...Array(2).fill("gcloud iam service-accounts"),
      ...Array(5).fill("gcloud secrets add-iam-policy-binding"),
      ...Array(2).fill("gcloud functions deploy"),
    ]);
    expect(lines.find((line) => line.includes("deploy user"))).toMatch(
      /--runtime=nodejs24 .*--set-secrets=DB_ADDRESS=proxy-gpt-DB_ADDRESS:N\\,SIGNUP_CODE=proxy-gpt-SIGNUP_CODE:N /,
    );
  });

  test("without the settings that functions need: one line a problem", async () => {
    cloud.project.setSettings({ SIGNUP: "code", MODERATE: "planted", API_URL: "planted" });
    const wrong = await cloud.project.deploy(place);
    expect(wrong).toMatchObject({ code: 1, out: "" });
    expect(wrong.err).toBe(
      "API_URL is not an http or https address.\nMODERATE is not one of off, flag, block.\n[deploy] nothing was deployed: please mend these settings\n",
    );
    cloud.project.setSettings({ SIGNUP: "code" });
    const missing = await cloud.project.deploy(place);
    expect(
      missing.err
        .trim()
        .split("\n")
        .map((line) => line.split(" ")[0]),
    ).toEqual(expect.arrayContaining(["DB_ADDRESS", "SIGNUP_CODE", "UPSTASH_REDIS_REST_URL", "API_KEY", "[deploy]"]));
    expect(missing.err.trim().split("\n")).toHaveLength(5);
    const { NEON_ENDPOINT: _, UPSTASH_REDIS_REST_URL: __, ...rest } = cloud.settings;
    cloud.project.setSettings({
      ...rest,
      DB_ADDRESS: `postgresql://user:${PASS}@db.example.com/db`,
      REDIS_ADDRESS: "redis://localhost",
    });
    const tcp = await cloud.project.deploy(place);
    expect(tcp.err.trim().split("\n")).toEqual([
      expect.stringMatching(/^DB_ADDRESS is not Neon's/),
      expect.stringMatching(/^UPSTASH_REDIS_REST_URL is missing/),
      expect.stringMatching(/^\[deploy\] nothing was deployed/),
    ]);
    cloud.expectNoValues(tcp, cloud.project.started());
    expect(cloud.google.asked).toEqual([]);
  });

  test.each([
    [["--regoin", "x"], "unknown option: --regoin"],
    [["usr"], "there is no function usr"],
    [["--region"], "--region needs a value"],
    [["--region", "Mars"], "--region must be"],
    [["--all-in-one", "user"], "--all-in-one takes no functions"],
    [["--yes"], "--yes belongs to --delete"],
  ])("of what is not understood: %j", async (args, line) => {
    const ran = await cloud.project.deploy(args);
    expect(ran).toMatchObject({ code: 2, out: "" });
    expect(ran.err).toMatch(/^[^\n]+\n$/);
    expect(ran.err).toContain(line);
  });

  test("and deletes nothing where nothing was deployed", async () => {
    const ran = await cloud.project.deploy(["--delete", ...place]);
    expect(ran).toMatchObject({ code: 1, out: "" });
    expect(ran.err).toBe(`[deploy] there is nothing of proxy-gpt to delete in ${REGION} of ${PROJECT}\n`);
    expect(cloud.changes()).toEqual([]);
  });

  test("in a region that does not exist", async () => {
    const ran = await cloud.project.deploy(["user", "--project", PROJECT, "--region=mars-central1"]);
    expect(ran.code).toBe(1);
    expect(ran.err).toMatch(/^\[deploy\] there is no region mars-central1 for this project[^\n]+\n$/);
    expect(cloud.changes()).toEqual([`POST serviceusage /v1/projects/${PROJECT}/services:batchEnable`]);
    expect(cloud.posted(/batchEnable/)[0]?.body.serviceIds.sort()).toEqual(
      ["artifactregistry", "cloudbuild", "cloudfunctions", "iam", "run", "secretmanager"].map((it) => `${it}.googleapis.com`),
    );
  });

  test("in a project that is not there", async () => {
    const ran = await cloud.project.deploy(["user", "--project", "another-project", "--region", REGION]);
    expect(ran.code).toBe(1);
    expect(ran.err).toMatch(/^\[deploy\] the project another-project cannot be used: [^\n]+\n$/);
    expect(cloud.changes()).toEqual([]);
  });

  test("where another application has a function of that name", async () => {
    cloud.google.functions.set("user", { name: `projects/${PROJECT}/locations/${REGION}/functions/user`, environment: "GEN_2" });
    const ran = await cloud.project.deploy(["user", ...place]);
    cloud.google.functions.delete("user");
    expect(ran.code).toBe(1);
    expect(ran.err).toMatch(/^\[deploy\] there is a function user in us-central1 that is not proxy-gpt's[^\n]+\n$/);
    expect(cloud.changes()).toEqual([]);
  });

  test("where the store cannot be reached", async () => {
    cloud.project.setSettings({ ...cloud.settings, NEON_ENDPOINT: "http://127.0.0.1:9/sql" });
    const ran = await cloud.project.deploy(["user", ...place]);
    expect(ran.code).toBe(1);
    expect(ran.err).toMatch(/^DB_ADDRESS [^\n]+\n\[deploy\] the store could not be migrated, and nothing was deployed\n$/);
    expect(cloud.changes()).toEqual([]);
    cloud.expectNoValues(ran, cloud.project.started());
  });
});
