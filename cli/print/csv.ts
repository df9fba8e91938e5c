import { visible } from "./visible.ts";

export type Value = string | number | boolean | null;

/** One record of RFC 4180, without its line break. */
export const csvLine = (values: readonly Value[]): string => values.map(cell).join(",");

/**
 * A spreadsheet takes a text that begins like a formula for one, and the audit log holds what strangers sent; the apostrophe
 * makes it text (OWASP, "CSV Injection"). Line breaks and tabs stay, every other control character is escaped.
 */
function cell(value: Value): string {
  if (value === null) return "";
  if (typeof value !== "string") return String(value);
  const text = value
    .split(/(\r?\n|\t)/)
    .map((part, i) => (i % 2 === 1 ? part : visible(part)))
    .join("");
  const safe = /^[=+\-@\t\r\n＝＋－＠]/u.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
