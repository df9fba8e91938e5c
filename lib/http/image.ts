import * as z from "zod";

/** The largest image that is taken inline. */
export const IMAGE_BYTES = 4 * 1024 * 1024;
const MOST_CHARACTERS = 8_192;

/** How a file of each type begins. */
const MAGIC: Record<string, (bytes: Buffer) => boolean> = {
  png: (bytes) => bytes.subarray(0, 8).equals(Buffer.from("\x89PNG\r\n\x1a\n", "latin1")),
  jpeg: (bytes) => bytes.subarray(0, 3).equals(Buffer.from([0xff, 0xd8, 0xff])),
  gif: (bytes) => /^GIF8[79]a/.test(bytes.toString("latin1", 0, 6)),
  webp: (bytes) => /^RIFF....WEBP/s.test(bytes.toString("latin1", 0, 12)),
};

/**
 * The address of an image, which is passed on to the model and never fetched here: `https:` without a user, or
 * `data:image/{png,jpeg,webp,gif};base64,` whose bytes begin as such a file does, up to 4 MiB.
 */
export const imageUrl = z.string().superRefine((url, context) => {
  const problem = /^data:/i.test(url) ? problemInline(url) : problemRemote(url);
  if (problem) context.addIssue(problem);
});

function problemRemote(url: string): string | null {
  // What parsers read differently is refused, rather than read in one way here and in another there.
  if (/^https:\/\/[^/?#]*@/i.test(url)) return "holds a user name or a password";
  if (!/^https:\/\/[^/]/i.test(url) || !/^[\x21-\x7e]*$/.test(url) || url.includes("\\") || !URL.canParse(url))
    return "is not an https: address, or a data: address of an image";
  return url.length > MOST_CHARACTERS ? `is longer than ${MOST_CHARACTERS} characters` : null;
}

function problemInline(url: string): string | null {
  const [head = "", type = ""] = /^data:image\/(png|jpeg|webp|gif);base64,/.exec(url.slice(0, 64)) ?? [];
  if (head === "") return "is not of the form data:image/png;base64,…, or jpeg, webp, gif";
  // Base64 has four characters for three bytes: what is far too long need not be decoded.
  if (url.length - head.length > (IMAGE_BYTES / 3 + 1) * 4) return TOO_LARGE;
  const base64 = url.slice(head.length);
  const bytes = Buffer.from(base64, "base64");
  if (bytes.toString("base64") !== base64) return "is not in base64";
  if (bytes.length > IMAGE_BYTES) return TOO_LARGE;
  return MAGIC[type]?.(bytes) ? null : `holds something that is no ${type} image`;
}
const TOO_LARGE = `holds an image of more than ${IMAGE_BYTES} bytes`;
