import { model, prompt } from "../../lib/http/fields.ts";
import { imageUrl } from "../../lib/http/image.ts";

/** An image of 4 MiB in base64, with a long prompt. */
export const IMAGE_BODY_BYTES = 6 * 1024 * 1024;

/** An image, and what is asked about it. */
export const imageFields = { content: prompt, url: imageUrl, model: model.optional() };

export const IMAGE_ERRORS = ["content_flagged", "upstream_refused", "upstream_busy", "upstream_timeout"] as const;
