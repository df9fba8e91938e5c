import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { describe, expect, test } from "vitest";

/** Every TypeScript file of the product, with what it imports: relative paths resolved from the root, packages by name. */
const files = ["functions", "lib", "schema", "cli"].flatMap((folder) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => {
      const path = join(folder, name);
      const text = readFileSync(path, "utf8");
      const specifiers = [...text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*"([^"]+)"/g)].map(([, specifier]) => specifier as string);
      const imports = specifiers.map((it) => (it.startsWith(".") ? normalize(join(dirname(path), it)) : it));
      return { path, text, imports };
    }),
);

/** Lower numbers may not import higher ones. */
const LAYERS: readonly (readonly [RegExp, number])[] = [
  [/^schema\//, 0],
  [/^lib\/(store|bus|llm)\//, 1],
  [/^lib\//, 2],
  [/^functions\//, 3],
  [/^cli\//, 4],
];
const layerOf = (path: string) => LAYERS.find(([pattern]) => pattern.test(path))?.[1];

/** A package that is heavy, native or a vendor's is named by its adapter alone. */
const ADAPTERS: Record<string, RegExp> = {
  libsql: /^lib\/store\/sqlite\.ts$/,
  pg: /^lib\/store\/postgres\.ts$/,
  "@neondatabase/serverless": /^lib\/store\/neon\.ts$/,
  argon2: /^lib\/auth\/passwords\.ts$/,
  ioredis: /^lib\/bus\/redis(-[a-z]+)?\.ts$/,
  "@upstash/redis": /^lib\/bus\/upstash(-[a-z]+)?\.ts$/,
  openai: /^lib\/llm\/(client|completion|moderation)\.ts$/,
  ws: /^lib\/http\/ws\.ts$/,
  undici: /^lib\/(llm\/upstream|store\/neon|bus\/upstash(-[a-z]+)?|proxy\/exchange)\.ts$/,
  hono: /^lib\/http\/serve\.ts$/,
  "drizzle-orm": /^(lib\/(store|repo)|schema)\//,
  "drizzle-kit": /^schema\//,
  commander: /^cli\//,
  "@opentelemetry": /^lib\/telemetry\/otel\.ts$/,
  uuidv7: /^lib\/ids\.ts$/,
};

describe("architecture", () => {
  test("there is something to check", () => expect(files.length).toBeGreaterThan(50));

  test("arrows point down", () => {
    const wrong = files.flatMap(({ path, imports, text }) =>
      imports
        .filter((it) => (layerOf(it) ?? 0) > (layerOf(path) ?? 0) && !isTypeOnly(text, path, it))
        .map((it) => `${path} → ${it}`),
    );
    expect(wrong).toEqual([]);
  });

  test("functions never import each other", () => {
    const own = (path: string) => path.split("/")[1];
    const wrong = files
      .filter(({ path }) => path.startsWith("functions/") && path !== "functions/all.ts")
      .flatMap(({ path, imports }) =>
        imports.filter((it) => it.startsWith("functions/") && own(it) !== own(path)).map((it) => `${path} → ${it}`),
      );
    expect(wrong).toEqual([]);
  });

  test("each package is imported where it belongs", () => {
    const wrong = files.flatMap(({ path, imports }) =>
      imports
        .filter((it) =>
          Object.entries(ADAPTERS).some(([name, where]) => (it === name || it.startsWith(`${name}/`)) && !where.test(path)),
        )
        .map((it) => `${path} → ${it}`),
    );
    expect(wrong).toEqual([]);
  });

  test("the environment is read at the edge only", () => {
    const readers = files.filter(({ text }) => text.includes("process.env")).map(({ path }) => path);
    expect(readers.filter((path) => !path.startsWith("cli/"))).toEqual(["lib/http/entry.ts"]);
  });

  test("time, ids and randomness come from deps", () => {
    const sources = /\bDate\.now\(|new Date\(\)|Math\.random\(|randomUUID\(/;
    const wrong = files.filter(
      ({ path, text }) => sources.test(text) && !/^(lib\/(deps|log)\.ts|lib\/llm\/demo|cli\/)/.test(path),
    );
    expect(wrong.map(({ path }) => path)).toEqual([]);
  });

  test("zod is imported whole, so that its languages are left out", () => {
    expect(files.filter(({ text }) => /import \{[^}]*\} from "zod"/.test(text)).map(({ path }) => path)).toEqual([]);
  });

  test("files stay small", () => {
    const long = files.map(({ path, text }) => [path, text.split("\n").length] as const).filter(([, lines]) => lines > 250);
    expect(long).toEqual([]);
  });
});

function isTypeOnly(text: string, path: string, target: string): boolean {
  const statements = [...text.matchAll(/^(import(?: type)?)\s[^;]*?from "(\.[^"]+)";/gms)];
  const matching = statements.filter(([, , it]) => normalize(join(dirname(path), it as string)) === target);
  return matching.length > 0 && matching.every(([, keyword]) => keyword === "import type");
}
