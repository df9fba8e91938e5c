import type { IncomingMessage } from "node:http";
import { ticketHash, tokenHash } from "../token.ts";
import { ApiError } from "./error.ts";

/** A token as it was presented. */
export type Credential = {
  /** The SHA-256 of the token; null when it is not a token at all, which no store need be asked about. */
  hash: string | null;
  /** The hash is that of a ticket, which stands for a session and is good for once. */
  ticket: boolean;
  /** Sent by a browser of its own accord, so that a foreign page may have caused it. */
  ambient: boolean;
  /** The user name that came with it (Basic), to be compared. */
  username: string | null;
};

const COOKIE = "sess";
const PROTOCOL_PREFIX = "openai-insecure-api-key.";

/**
 * The one resolver of all channels: bearer, Basic (`username:token`), the cookie, the `parameters` of a stream, which may be
 * tickets, and, on a WebSocket's upgrade, the subprotocol by which OpenAI's browser client sends its key. An explicit
 * credential beats the cookie; two different ones are refused (`two_credentials`). Null: none was sent.
 */
export function presentedCredential(req: IncomingMessage, parameters: readonly string[] = []): Credential | null {
  const explicit = [...authorizations(req), ...protocols(req), ...parameters.map((token) => credential(token, false))];
  const candidates = explicit.length > 0 ? explicit : cookies(req.headers.cookie);
  const [first, ...others] = candidates;
  if (!first) return null;
  let { username } = first;
  for (const other of others) {
    username ??= other.username;
    if (other.token !== first.token || (other.username ?? username) !== username) throw new ApiError("two_credentials");
  }
  const ambient = candidates.some((it) => it.ambient);
  const ticket = parameters.length > 0 ? ticketHash(first.token) : null;
  return { hash: ticket ?? tokenHash(first.token), ticket: ticket !== null, ambient, username };
}

/** Subprotocols without those by which a browser says its key, and whose account it is. */
export function withoutKeyProtocol(header: string): string {
  const offered = header.split(",").map((name) => name.trim());
  return offered.filter((name) => !/^openai-(insecure-api-key|organization|project)\./.test(name)).join(", ");
}

/** Whether a request says who sends it, rightly or not. */
export const hasCredential = ({ headers: { authorization, cookie } }: IncomingMessage): boolean =>
  authorization !== undefined || cookies(cookie).length > 0;

type Candidate = { token: string; ambient: boolean; username: string | null };

const credential = (token: string, ambient: boolean, username: string | null = null): Candidate => ({ token, ambient, username });

function authorizations({ headers, rawHeaders }: IncomingMessage): Candidate[] {
  if (headers.authorization === undefined) return [];
  const found: Candidate[] = [];
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i]?.toLowerCase() === "authorization") found.push(authorization(rawHeaders[i + 1] ?? ""));
  }
  return found;
}

function authorization(value: string): Candidate {
  const [, scheme = "", rest = ""] = /^(\S*)\s*(.*)$/.exec(value) ?? [];
  if (scheme.toLowerCase() !== "basic") return credential(scheme.toLowerCase() === "bearer" ? rest.trim() : "", false);
  const [, username = "", token = ""] = /^([^:]*):(.*)$/s.exec(Buffer.from(rest, "base64").toString("utf8")) ?? [];
  return credential(token, true, username);
}

function protocols({ headers }: IncomingMessage): Candidate[] {
  if (headers.upgrade === undefined) return [];
  const offered = headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim()) ?? [];
  const keys = offered.filter((name) => name.startsWith(PROTOCOL_PREFIX));
  return keys.map((name) => credential(name.slice(PROTOCOL_PREFIX.length), false));
}

function cookies(header: string | undefined): Candidate[] {
  if (header === undefined) return [];
  const pairs = header.split(";").map((pair) => pair.trim());
  const ours = pairs.filter((pair) => pair.startsWith(`${COOKIE}=`));
  return ours.map((pair) => credential(pair.slice(COOKIE.length + 1).replace(/^"(.*)"$/, "$1"), true));
}

/** The `Set-Cookie` value that stores a token, or, with an empty one, forgets it. */
export function sessionCookie(
  token: string,
  seconds: number,
  { secure, crossSite }: { secure: boolean; crossSite: boolean },
): string {
  const site = crossSite ? "SameSite=None; Secure; Partitioned" : `SameSite=Lax${secure ? "; Secure" : ""}`;
  return `${COOKIE}=${token}; Path=/; Max-Age=${seconds}; HttpOnly; ${site}`;
}
