import * as z from "zod/mini";
import { settings } from "../lib/config.ts";

const WIDTH = 110;

/** The text of `.env.example`: every setting with what it does, commented out at its default. */
export function envExample(): string {
  const entries = Object.entries(settings.shape as Record<string, z.ZodMiniType>).map(([name, schema]) => {
    const description = wrap(z.globalRegistry.get(schema)?.description ?? "").map((line) => `# ${line}`);
    return [...description, `# ${name}=${defaultOf(schema)}`].join("\n");
  });
  return `# Copy to .env, and uncomment what you set. The environment's own values win over this file.\n\n${entries.join("\n\n")}\n`;
}

function defaultOf(schema: z.ZodMiniType): string {
  const value = "defaultValue" in schema.def ? schema.def.defaultValue : undefined;
  return value === undefined ? "" : String(value);
}

function wrap(text: string): string[] {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1) as string;
    if (line === "") lines[lines.length - 1] = word;
    else if (line.length + word.length < WIDTH) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines;
}
