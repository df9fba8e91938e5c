import { defineConfig } from "vitest/config";

/** `architecture` reads the source only and is part of `npm run check`; `service` runs the product. */
export default defineConfig({
  test: {
    maxWorkers: "100%",
    projects: [
      { test: { name: "architecture", include: ["test/architecture.test.ts"] } },
      {
        test: {
          name: "service",
          include: ["test/**/*.test.ts"],
          exclude: ["test/architecture.test.ts"],
          testTimeout: 20_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
