import * as z from "zod";
import { isUuid } from "../uuid.ts";
import { parseJson } from "./input.ts";

/** The field vocabulary of endpoints' inputs. In forms and queries everything is text; `input.ts` converts by these types. */

/** An id of ours: a UUID. */
export const id = z.uuid({ error: "is not an id" });

/**
 * A chat, by its id or by the key that its owner chose. What has the form of a UUID is never a key, and neither is what a path
 * would take for something else: `.`, `..`, `v1` and the functions' names.
 */
export const chatName = z
  .string()
  .regex(/^[A-Za-z0-9._~-]{1,128}$/, "is neither an id nor a key of 1 to 128 of A-Z, a-z, 0-9 and . _ ~ -")
  .refine((text) => !isUuid(text) || id.safeParse(text).success, "is not an id")
  .refine((text) => !NO_KEYS.has(text), "is reserved");
const NO_KEYS = new Set([".", "..", "v1", "user", "group", "chat", "proxy", "system", "mod", "img"]);

/** 3 to 64 of `a-z 0-9 . _ @ + -`, after ASCII letters are made small; one canonical form, and some names are reserved. */
export const username = z
  .string()
  .transform((text) => text.replace(/[A-Z]/g, (letter) => letter.toLowerCase()))
  .pipe(
    z
      .string()
      .regex(/^[a-z0-9._@+-]{3,64}$/, "takes 3 to 64 of a-z, 0-9 and . _ @ + -")
      .refine((name) => !RESERVED.has(name), "is reserved"),
  );
const RESERVED = new Set([
  "admin",
  "administrator",
  "root",
  "system",
  "assistant",
  "user",
  "support",
  "api",
  "anonymous",
  "null",
  "undefined",
  "me",
  "proxy-gpt",
]);

/** A username to be looked up: any text, made small as `username` does; what cannot be one is simply nobody's. */
export const anyUsername = z
  .string()
  .min(1, "is empty")
  .max(256, "is longer than 256 characters")
  .transform((text) => text.replace(/[A-Z]/g, (letter) => letter.toLowerCase()));

/** A new password: 8 to 256 characters. */
export const newPassword = z.string().min(8, "is shorter than 8 characters").max(256, "is longer than 256 characters");

/** A password to be checked; only its length is bounded, before any hashing. */
export const password = z.string().min(1, "is empty").max(256, "is longer than 256 characters");

/** A name for people to read: 1 to 128 characters on one line. */
export const label = z
  .string()
  .trim()
  .min(1, "is empty")
  .max(128, "is longer than 128 characters")
  .regex(/^[^\p{Cc}\u2028\u2029]*$/u, "holds a control character");

/** A whole number within bounds. */
export const whole = (min: number, max: number) => z.int().min(min, `is below ${min}`).max(max, `is above ${max}`);

/** A whole number in digits, as a cursor has it. */
export const digits = z
  .string()
  .regex(/^\d{1,15}$/, "is not a whole number")
  .transform(Number);

/** An instant: ISO 8601, in UTC unless it says otherwise; a date alone for its midnight. */
export const instant = z
  .union([z.iso.date(), z.iso.datetime({ offset: true, local: true })], "is not an ISO 8601 time")
  .transform((text) => new Date(/T[^Z+-]*$/i.test(text) ? `${text}Z` : text));

/** The name of a model, as the upstream or `MODEL_ALIASES` has it. */
export const model = z.string().regex(/^[\x21-\x7e]{1,128}$/, "is not the name of a model");

/** What is said to a model: some text. */
export const PROMPT_BYTES = 262_144;
export const prompt = z.string().min(1, "is empty").max(PROMPT_BYTES, `is longer than ${PROMPT_BYTES} characters`);

/** What a template's fields are filled with; in a form, as JSON. */
const fieldValues = z.record(z.string().regex(/^[A-Za-z0-9_]{1,64}$/, "is not the name of a field"), z.string());
const NOT_FIELDS = "is not a JSON object of the fields' names, each with its text";
const fieldsInForm = z
  .string()
  .transform((text, context) => {
    try {
      return parseJson(text);
    } catch {
      context.addIssue(NOT_FIELDS);
      return z.NEVER;
    }
  })
  .pipe(fieldValues);

/** What is said to a model, in place of a prompt: the words of a template, and what its fields are filled with. */
export const templated = { template: id.optional(), fields: z.union([fieldValues, fieldsInForm], NOT_FIELDS).optional() };

/** An instant in an answer: ISO 8601 in UTC. */
export const time = z.iso.datetime();

/** Text that may span lines, and be empty. */
export const paragraph = (most: number) => z.string().max(most, `is longer than ${most} characters`);

/** How a page of a list is asked for: `cursor` is the `next` of the page before. */
export const page = { cursor: id.optional(), limit: whole(1, 1_000).default(100) };

/** One or several, as a list, a repeated field of a form, or with commas between. */
const several = (item: z.ZodType<string, string>, most: number) =>
  z
    .union([z.string(), z.array(z.string())])
    .transform((given) =>
      [given]
        .flat()
        .flatMap((text) => text.split(","))
        .map((text) => text.trim())
        .filter(Boolean),
    )
    .pipe(z.array(item).min(1, "is empty").max(most, `holds more than ${most}`));

const MOST_PEOPLE = 100;
/** People, by id or username, one or several; at least one is named. */
export const people = {
  user_id: several(id, MOST_PEOPLE).optional(),
  user_ids: several(id, MOST_PEOPLE).optional(),
  username: several(anyUsername, MOST_PEOPLE).optional(),
  usernames: several(anyUsername, MOST_PEOPLE).optional(),
};
export type People = { [K in keyof typeof people]?: string[] | undefined };

/** The ids and usernames of the people named. */
export const named = ({ user_id = [], user_ids = [], username = [], usernames = [] }: People) => ({
  ids: [...new Set([...user_id, ...user_ids])],
  usernames: [...new Set([...username, ...usernames])],
});

/** Nothing in, or nothing out. */
export const nothing = z.object({});
