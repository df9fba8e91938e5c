import { ApiError } from "../http/error.ts";
import { PROMPT_BYTES } from "../http/fields.ts";
import * as templates from "../repo/templates.ts";
import type { Store } from "../store/store.ts";

/** A template with what its fields are filled with. */
export type Filled = { template: string; fields: Record<string, string> };

/** A prompt in one's own words, or a template's; one of the two. Throws `invalid_input`. */
export function worded(
  own: string | undefined,
  { template, fields }: { template?: string | undefined; fields?: Record<string, string> | undefined },
  param: string,
): string | Filled {
  const wrong = (message: string, of = param) => new ApiError("invalid_input", { message, param: of });
  if (own !== undefined && template !== undefined) throw wrong(`Give ${param} or template, not both.`);
  if (template !== undefined) return { template, fields: inOrder(fields ?? {}) };
  if (fields !== undefined) throw wrong("fields are a template's, and template is missing.", "template");
  if (own === undefined) throw wrong(`${param} is missing.`);
  return own;
}

/** Equal fields are equal in whatever order they are given. */
const inOrder = (fields: Record<string, string>): Record<string, string> =>
  Object.fromEntries(Object.entries(fields).sort(([one], [other]) => (one < other ? -1 : 1)));

const FIELD = /\{\{\s*([A-Za-z0-9_]{1,64})\s*\}\}/g;

/** The names of a template's fields, each once, in the order in which they come. */
export const fieldsIn = (text: string): string[] => [...new Set([...text.matchAll(FIELD)].map(([, name]) => name as string))];

/**
 * A prompt in the words of a template that its author sees. Each field is filled once: what it is filled with is not looked at
 * again. Throws `not_found`, and `invalid_input` where a field is missing, is none of the template's, or it gets too long.
 */
export async function fill(store: Store, { template: id, fields }: Filled, userId: string): Promise<string> {
  const template = await templates.findForMember(store, id, userId);
  if (!template) throw new ApiError("not_found", { message: "There is no such template that you can see.", param: "template" });
  const wrong = (message: string) => new ApiError("invalid_input", { message, param: "fields" });
  const names = fieldsIn(template.text);
  const missing = names.filter((name) => !Object.hasOwn(fields, name));
  if (missing.length > 0) throw wrong(`fields lacks ${missing.join(", ")}.`);
  const unknown = Object.keys(fields).filter((name) => !names.includes(name));
  if (unknown.length > 0) throw wrong(`The template has no field ${unknown.join(", ")}.`);
  const value = (name: string) => fields[name] as string;
  // Counted before it is made: a template of a few kilobytes with a long value could be made into gigabytes.
  const grown = [...template.text.matchAll(FIELD)].map(([field, name]) => value(name as string).length - field.length);
  if (grown.reduce((sum, more) => sum + more, template.text.length) > PROMPT_BYTES)
    throw wrong(`The prompt would be longer than ${PROMPT_BYTES} characters.`);
  const prompt = template.text.replace(FIELD, (_, name: string) => value(name));
  if (prompt.trim() === "") throw wrong("The prompt would be empty.");
  return prompt;
}
