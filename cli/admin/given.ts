import { InvalidArgumentError } from "commander";
import * as z from "zod";
import { whole } from "../../lib/http/fields.ts";

/** Reads an argument or an option's value by the rules of a field. What the rules refuse is wrong usage. */
export const given =
  <S extends z.ZodType>(schema: S) =>
  (text: string): z.output<S> => {
    const parsed = schema.safeParse(text);
    if (parsed.success) return parsed.data;
    throw new InvalidArgumentError(`It ${parsed.error.issues[0]?.message ?? "is not valid"}.`);
  };

/** Reads a whole number within bounds. */
export const wholeNumber = (min: number, max: number) =>
  given(
    z
      .string()
      .regex(/^\d{1,15}$/, "is not a whole number")
      .transform(Number)
      .pipe(whole(min, max)),
  );
