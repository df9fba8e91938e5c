import { createHash } from "node:crypto";

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The names of what a chat has on a server. The braces keep its keys on one node of a cluster. */
export type Keys = {
  log: string;
  /** Without braces, because it stands in a URL on Upstash. */
  channel: string;
  /** Who writes a reply: the last frame's number, its id and the producer; or `settled`. */
  reply(generation: string): string;
  /** Who wants a reply stopped. */
  stop(generation: string): string;
};

/** No id but a UUID is ever part of a name as it is: a chat's may be anything that somebody typed. */
export function keysOf(chat: string): Keys {
  const hashed = hash(chat);
  const named = (generation: string) => (UUID.test(generation) ? generation : hash(generation));
  return {
    log: `pg:{${hashed}}:log`,
    channel: `pg-${hashed}`,
    reply: (generation) => `pg:{${hashed}}:gen:${named(generation)}`,
    stop: (generation) => `pg:{${hashed}}:stop:${named(generation)}`,
  };
}

const hash = (text: string): string => createHash("sha256").update(text).digest("base64url").slice(0, 22);
