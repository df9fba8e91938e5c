import * as z from "zod";
import { paragraph } from "../../lib/http/fields.ts";

const MOST = 32_768;
/** How a model is told to behave. An empty one is none. */
export const SystemPrompt = z.object({ content: z.string() });
export const content = paragraph(MOST);
