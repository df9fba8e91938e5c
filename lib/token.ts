import { hash, randomBytes } from "node:crypto";
import { crc32 } from "node:zlib";

/** A session's token begins with `pgs_`, an API key with `pgk_`, a ticket with `pgt_`; then 32 random bytes and a checksum. */
export type TokenKind = "session" | "key" | "ticket";
export type Minted = { token: string; hash: string; hint: string };

const PREFIX: Record<TokenKind, string> = { session: "pgs_", key: "pgk_", ticket: "pgt_" };
const SHAPE = /^pg[skt]_[A-Za-z0-9_-]{43}[0-9a-z]{7}$/;
const BODY_LENGTH = 47;

/** A new token, the SHA-256 to store, and its last four characters, by which its owner knows it again. */
export function mintToken(kind: TokenKind, random: (size: number) => Buffer = randomBytes): Minted {
  const body = PREFIX[kind] + random(32).toString("base64url");
  const token = body + checksum(body);
  return { token, hash: sha256(token), hint: token.slice(-4) };
}

/** The SHA-256 of a well-formed session token or API key; null for anything else, so that noise never reaches the store. */
export const tokenHash = (text: string): string | null => (text.startsWith(PREFIX.ticket) ? null : hashOf(text));

/** The same of a ticket. */
export const ticketHash = (text: string): string | null => (text.startsWith(PREFIX.ticket) ? hashOf(text) : null);

function hashOf(text: string): string | null {
  if (!SHAPE.test(text)) return null;
  return checksum(text.slice(0, BODY_LENGTH)) === text.slice(BODY_LENGTH) ? sha256(text) : null;
}

const sha256 = (text: string) => hash("sha256", text, "base64url");
const checksum = (body: string) => crc32(body).toString(36).padStart(7, "0");
