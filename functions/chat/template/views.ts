import * as z from "zod";
import { fieldsIn } from "../../../lib/chat/template.ts";
import { paragraph, time } from "../../../lib/http/fields.ts";
import type { Template } from "../../../lib/repo/templates.ts";

const MOST = 32_768;
/** A prompt with `{{fields}}`. */
export const text = paragraph(MOST)
  .min(1, "is empty")
  .refine((it) => !fieldsIn(it).some((name) => UNFILLABLE.has(name)), "names a field that cannot be given");
/** Keys that no body may have. */
const UNFILLABLE = new Set(["__proto__", "constructor", "prototype"]);

export const TemplateView = z.object({
  id: z.string(),
  name: z.string(),
  text: z.string(),
  /** The names of its fields. */
  fields: z.array(z.string()),
  owner_id: z.string(),
  /** The group that it is shared with. */
  group_id: z.string().nullable(),
  created_at: time,
  updated_at: time,
});
export const templateView = ({
  id,
  name,
  text,
  ownerId,
  groupId,
  createdAt,
  updatedAt,
}: Template): z.input<typeof TemplateView> => ({
  id,
  name,
  text,
  fields: fieldsIn(text),
  owner_id: ownerId,
  group_id: groupId,
  created_at: createdAt.toISOString(),
  updated_at: updatedAt.toISOString(),
});
