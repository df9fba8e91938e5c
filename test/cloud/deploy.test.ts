import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { account, CODE, type Deployment, KEY, place, skippedWithoutGcloud, startDeployment } from "./deployment.ts";
import { type Json, PROJECT, REGION } from "./google.ts";
import { environmentOf } from "./instances.ts";
import { unzip } from "./unzip.ts";

describe.skipIf(skippedWithoutGcloud("deploy.sh"))("deploy.sh", () => {
  let cloud: Deployment;
  beforeAll(async () => {
    cloud = await startDeployment();
  });
  beforeEach(() => cloud.begin());
  afterAll(() => cloud?.close());

  test("makes each function with its own account and exactly its secrets, and finds it well", async () => {
    cloud.google.lag = 1;
    const ran = await cloud.project.deploy(["user", "group", "chat", ...place]);
    expect(ran).toMatchObject({ code: 0, err: "" });
    const started = cloud.project.started();
    cloud.expectNoValues(ran, started);

    const kinds = cloud
      .changes()
      .map((what) => what.replace(/^\S+ (\S+) \/v[12]\/projects\/[^/]+\/?/, "$1 ").replace(/ (.*\/)?/, " "));
    const first = (kind: string) => kinds.findIndex((it) => it.startsWith(kind));
    const last = (kind: string) => kinds.findLastIndex((it) => it.startsWith(kind));
    expect(last("secretmanager secrets")).toBeLessThan(first("iam serviceAccounts"));
    expect(last("iam serviceAccounts")).toBeLessThan(kinds.findIndex((it) => /^secretmanager .*:setIamPolicy/.test(it)));
    expect(last("secretmanager")).toBeLessThan(first("cloudfunctions"));
    expect([...cloud.google.accounts].sort()).toEqual(["chat", "group", "user"].map(account));
    expect(Object.fromEntries([...cloud.google.secrets].map(([name, { versions }]) => [name, versions]))).toEqual({
      "proxy-gpt-API_KEY": [KEY],
      "proxy-gpt-DB_ADDRESS": [cloud.settings.DB_ADDRESS],
      "proxy-gpt-SIGNUP_CODE": [CODE],
      "proxy-gpt-UPSTASH_REDIS_REST_TOKEN": [cloud.upstash.token],
    });
    const readers = (secret: string) =>
      cloud.google.secrets
        .get(`proxy-gpt-${secret}`)
        ?.policy.bindings.flatMap((it) => it.members)
        .sort();
    const members = (...names: string[]) => names.map((it) => `serviceAccount:${account(it)}`);
    expect(readers("DB_ADDRESS")).toEqual(members("chat", "group", "user"));
    expect(readers("API_KEY")).toEqual(members("chat"));
    expect(readers("UPSTASH_REDIS_REST_TOKEN")).toEqual(members("chat", "group"));
    expect(readers("SIGNUP_CODE")).toEqual(members("user"));

    const common = { NEON_ENDPOINT: cloud.neon.endpoint, MODERATE: "flag", GOOGLE_CLOUD_PROJECT: PROJECT };
    const { DB_ADDRESS, API_KEY, UPSTASH_REDIS_REST_TOKEN, UPSTASH_REDIS_REST_URL } = cloud.settings;
    const bus = { UPSTASH_REDIS_REST_TOKEN, UPSTASH_REDIS_REST_URL };
    expect(environmentOf(cloud.google, "user")).toEqual({ ...common, DB_ADDRESS, SIGNUP: "code", SIGNUP_CODE: CODE });
    expect(environmentOf(cloud.google, "group")).toEqual({ ...common, DB_ADDRESS, ...bus });
    expect(environmentOf(cloud.google, "chat")).toEqual({ ...common, DB_ADDRESS, ...bus, API_KEY });
    expect(cloud.google.callers.get("chat")).toEqual(["allUsers"]);

    const chat = cloud.posted(/^POST cloudfunctions .*\/functions$/).find(({ query }) => query.functionId === "chat")?.body;
    expect(chat).toMatchObject({
      labels: { app: "proxy-gpt" },
      buildConfig: { runtime: "nodejs24", entryPoint: "chat" },
      serviceConfig: {
        availableCpu: "1",
        availableMemory: "512Mi",
        maxInstanceCount: 20,
        maxInstanceRequestConcurrency: 80,
        minInstanceCount: 0,
        serviceAccountEmail: account("chat"),
        timeoutSeconds: 3600,
      },
    });
    const files = started.flatMap(({ file }) => (file ? [file] : []));
    expect(files.map(({ mode }) => mode)).toEqual(Array(3).fill("-rw-------"));
    for (const name of ["user", "group", "chat"]) expectSource(name);

    const [, url] = /base address is (\S+);/.exec(ran.out) ?? [];
    expect(url).toBe(`https://${REGION}-${PROJECT}.cloudfunctions.net`);
    for (const name of ["user", "group", "chat"]) {
      expect(ran.out).toMatch(new RegExp(`^${name} +ok +http://127\\.0\\.0\\.1:\\d+/run/${name}$`, "m"));
      expect(ran.out).toMatch(new RegExp(`^\\[deploy\\] ${name}: deployed in \\d+ s$`, "m"));
    }
    expect(ran.out).toContain("npm run admin -- create NAME --admin");
  });

  /** What was uploaded is what was built. */
  function expectSource(name: string) {
    const source = unzip(cloud.google.sources.get(name) ?? Buffer.alloc(0));
    const folder = join(cloud.project.folder, "dist", name);
    const built = filesIn(folder);
    expect([...source.keys()].sort()).toEqual(built);
    for (const file of built) expect(source.get(file)?.equals(readFileSync(join(folder, file))), file).toBe(true);
    const manifest = JSON.parse(String(source.get("package.json")));
    expect(built).toEqual(expect.arrayContaining([manifest.main, "package-lock.json"]));
    expect(manifest.engines.node).toMatch(/^24\b/);
    expect("argon2" in manifest.dependencies).toBe(name === "user");
  }

  test("changes nothing but revisions the next time and what is new in the settings, and leaves alone what fails", async () => {
    const policyOf = (secret: string) => cloud.google.secrets.get(`proxy-gpt-${secret}`)?.policy;
    const before = structuredClone(cloud.google.functions.get("chat"));
    const auditor = { role: "roles/secretmanager.secretAccessor", members: ["user:auditor@example.com"] };
    policyOf("SIGNUP_CODE")?.bindings[0]?.members.push(...auditor.members);
    cloud.google.broken.add("chat");
    const { SIGNUP_CODE: _, ...rest } = cloud.settings;
    cloud.project.setSettings({ ...rest, SIGNUP: "closed", API_KEY: `${KEY}-2` });
    const ran = await cloud.project.deploy(["user", "chat", ...place]);
    cloud.google.broken.clear();
    expect(ran.code).toBe(1);
    cloud.expectNoValues(ran, cloud.project.started());
    const at = (path: string) => `/projects/${PROJECT}/${path}`;
    expect(
      cloud
        .changes()
        .filter((what) => !/generateUploadUrl$|^POST run/.test(what))
        .sort(),
    ).toEqual([
      `PATCH cloudfunctions /v2${at(`locations/${REGION}/functions/chat`)}`,
      `PATCH cloudfunctions /v2${at(`locations/${REGION}/functions/user`)}`,
      `POST secretmanager /v1${at("secrets/proxy-gpt-API_KEY:addVersion")}`,
      `POST secretmanager /v1${at("secrets/proxy-gpt-SIGNUP_CODE:setIamPolicy")}`,
    ]);
    expect(cloud.google.secrets.get("proxy-gpt-API_KEY")?.versions).toEqual([KEY, `${KEY}-2`]);
    expect(policyOf("SIGNUP_CODE")?.bindings, "who is not ours may still read it").toEqual([auditor]);
    expect(environmentOf(cloud.google, "user")).not.toHaveProperty("SIGNUP_CODE");
    expect(cloud.posted(/^PATCH .*chat$/)[0]?.body.serviceConfig.secretEnvironmentVariables).toMatchObject([
      ...[
        { key: "API_KEY", version: "2" },
        { key: "DB_ADDRESS", version: "1" },
        { key: "UPSTASH_REDIS_REST_TOKEN", version: "1" },
      ],
    ]);
    expect(cloud.google.functions.get("chat"), "what failed keeps its revision, which keeps its key").toEqual(before);
    expect(environmentOf(cloud.google, "chat").API_KEY).toBe(KEY);
    expect(ran.out).toMatch(/^user +ok /m);
    expect(ran.out).not.toMatch(/^chat +/m);
    expect(ran.err).toMatch(/^\[deploy\] chat: failed: [^\n]*Build failed[^\n]*\n\[deploy\] not deployed: chat\. [^\n]+\n$/);
  });

  test("makes one service of all, with every secret, beside the functions", async () => {
    cloud.google.serve = () => Response.json({ status: "ok" });
    const ran = await cloud.project.deploy(["--all-in-one", ...place]);
    expect(ran).toMatchObject({ code: 0, err: "" });
    cloud.expectNoValues(ran, cloud.project.started());
    const { metadata, spec, status } = cloud.google.services.get("proxy-gpt");
    expect(metadata.labels).toMatchObject({ app: "proxy-gpt" });
    const { containers, ...template } = spec.template.spec;
    expect(template).toMatchObject({ containerConcurrency: 80, timeoutSeconds: 3600, serviceAccountName: account("all") });
    const env = containers[0].env as Json[];
    expect(Object.fromEntries(env.filter(({ value }) => value !== undefined).map(({ name, value }) => [name, value]))).toEqual({
      ...{ ADDRESS: "0.0.0.0", GOOGLE_CLOUD_PROJECT: PROJECT, MODERATE: "flag", SIGNUP: "code" },
      ...{ NEON_ENDPOINT: cloud.neon.endpoint, UPSTASH_REDIS_REST_URL: cloud.upstash.url },
    });
    const secrets = ["API_KEY", "DB_ADDRESS", "SIGNUP_CODE", "UPSTASH_REDIS_REST_TOKEN"];
    expect(env.flatMap(({ name, valueFrom }) => (valueFrom ? [`${name} ${valueFrom.secretKeyRef.name}`] : [])).sort()).toEqual(
      secrets.map((it) => `${it} proxy-gpt-${it}`),
    );
    for (const it of secrets) {
      const members = cloud.google.secrets.get(`proxy-gpt-${it}`)?.policy.bindings.flatMap((binding) => binding.members);
      expect(members).toContain(`serviceAccount:${account("all")}`);
      if (it === "DB_ADDRESS")
        expect(members, "the functions keep what they have").toContain(`serviceAccount:${account("user")}`);
    }
    expect(cloud.google.callers.get("proxy-gpt")).toEqual(["allUsers"]);
    const source = unzip(cloud.google.sources.get("all") ?? Buffer.alloc(0));
    expect([...source.keys()].sort()).toEqual(filesIn(join(cloud.project.folder, "dist/all")));
    expect(ran.out).toContain(`the base address is ${status.url};`);
  });

  describe("--delete", () => {
    test("asks on a terminal, and without one deletes nothing", async () => {
      const silent = await cloud.project.deploy(["--delete", ...place]);
      expect(silent.code).toBe(1);
      expect(silent.err).toMatch(/^\[deploy\] nothing was deleted: there is no terminal[^\n]+\n$/);
      expect(silent.out).toContain("the store stays");
      for (const it of [
        "function user",
        "function group",
        "function chat",
        `account ${account("chat")}`,
        "secret proxy-gpt-API_KEY",
      ])
        expect(silent.out).toContain(`\n  ${it}\n`);
      const refused = await cloud.project.deploy(["--delete", "--all-in-one", ...place], { terminal: "y\n" });
      expect(refused.code).toBe(1);
      expect(refused.out).toMatch(/ {2}service proxy-gpt\r?\n {2}account proxy-gpt-all@\S+\r?\n\[deploy\] the store stays/);
      expect(refused.out).toContain("[deploy] nothing was deleted");
      expect(cloud.changes()).toEqual([]);
      cloud.google.asked = [];
      const dry = await cloud.project.deploy(["--delete", "--dry-run", ...place]);
      expect(dry).toMatchObject({ code: 0, err: "" });
      expect(dry.out.trim().split("\n")).toHaveLength(7 + 1 + 8 + 5);
      expect(cloud.google.asked).toEqual([]);
    });

    test("deletes one function and its account, then all the rest", async () => {
      cloud.google.functions.set("other", {
        name: `projects/${PROJECT}/locations/${REGION}/functions/other`,
        environment: "GEN_2",
      });
      cloud.google.accounts.add("other@example.com");
      expect(await cloud.project.deploy(["--delete", "group", "--yes", ...place])).toMatchObject({ code: 0, err: "" });
      expect([...cloud.google.functions.keys()].sort()).toEqual(["chat", "other", "user"]);
      expect([...cloud.google.accounts].sort()).toEqual(["other@example.com", account("all"), account("chat"), account("user")]);
      expect(cloud.google.secrets.size).toBe(4);
      const ran = await cloud.project.deploy(["--delete", ...place], { terminal: "yes\n" });
      expect(ran.code, ran.out).toBe(0);
      expect([[...cloud.google.functions.keys()], [...cloud.google.accounts], [...cloud.google.secrets]]).toEqual([
        ["other"],
        ["other@example.com"],
        [],
      ]);
      expect(cloud.neon.requests.some(({ queries }) => queries.some((it: Json) => /drop|delete from/i.test(it)))).toBe(false);
    });
  });
});

const filesIn = (folder: string) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((it) => it.isFile())
    .map((it) => relative(folder, join(it.parentPath, it.name)))
    .sort();
