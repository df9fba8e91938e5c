import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { envExample } from "../cli/env.ts";

test(".env.example shows every setting (write it with: node dist/local/main.mjs env > .env.example)", () => {
  expect(readFileSync(".env.example", "utf8")).toBe(envExample());
});
