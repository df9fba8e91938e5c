import { hash } from "node:crypto";

const SHAPE = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** Whether a text has the form of a UUID, of whatever version. */
export const isUuid = (text: string): boolean => SHAPE.test(text);

/** The same id for the same parts, and another for any others: a UUIDv8 (RFC 9562) of their SHA-256. */
export function uuidOf(...parts: readonly string[]): string {
  const digits = hash("sha256", JSON.stringify(parts), "hex");
  const variant = ((Number.parseInt(digits.slice(16, 17), 16) & 3) | 8).toString(16);
  const groups = [
    digits.slice(0, 8),
    digits.slice(8, 12),
    `8${digits.slice(13, 16)}`,
    variant + digits.slice(17, 20),
    digits.slice(20, 32),
  ];
  return groups.join("-");
}
