import { defineConfig } from "vitest/config";

/** What takes long by its nature: leases that run out, killed processes, tables of everybody and everything, every store. */
const LONG = [
  "test/{objects,members,kill,framework,admin,admin-postgres,input,telemetry,chosen-lines}.test.ts",
  "test/export*.test.ts",
  "test/seed-lines.test.ts",
  "test/live/*.test.ts",
  "test/bus/{faults,upstash,exit}.test.ts",
  "test/chat/{lifecycle,store-down,idempotency,failure}.test.ts",
  "test/chosen/{expiry,moderation}.test.ts",
  "test/chat-clients/{reconnecting,resume,openai-failures}.test.ts",
  "test/llm/{slices,completion}.test.ts",
  "test/store/*.test.ts",
  "test/streams/flow.test.ts",
];
/** What is deployed, as it was built: it needs `npm run build`. */
const CLOUD = "test/cloud/**/*.test.ts";
const patience = { testTimeout: 20_000, hookTimeout: 60_000 };

/**
 * `architecture` reads the source only and is part of `npm run check`; `service` runs the product, `long` does so for minutes,
 * and `cloud` runs what is deployed.
 */
export default defineConfig({
  test: {
    maxWorkers: "100%",
    projects: [
      { test: { name: "architecture", include: ["test/architecture.test.ts"] } },
      {
        test: {
          name: "service",
          include: ["test/**/*.test.ts"],
          exclude: ["test/architecture.test.ts", CLOUD, ...LONG],
          ...patience,
        },
      },
      { test: { name: "long", include: LONG, ...patience } },
      { test: { name: "cloud", include: [CLOUD], testTimeout: 120_000, hookTimeout: 60_000 } },
    ],
  },
});
