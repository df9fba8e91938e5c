import type { IncomingMessage } from "node:http";
import type { Deps } from "../deps.ts";
import type { Caller } from "../repo/ledger.ts";
import * as tickets from "../repo/tickets.ts";
import { clientAddress } from "./address.ts";
import { refuseForeignPage } from "./browser.ts";
import { type Credential, presentedCredential } from "./credentials.ts";
import type { Call, Guard } from "./endpoint.ts";
import { ApiError } from "./error.ts";
import { withoutSecrets } from "./secrets.ts";

/** What a route says of who may pass. */
export type Door = {
  endpoint: string;
  access: Pick<Guard, "open">;
  /** A page of another origin could do harm here, if the browser adds a credential by itself. */
  writes: boolean;
  audited: boolean;
  /** The tokens and tickets in the query and the body, where those are credentials: on streams alone. */
  parameters?: readonly string[];
};
export type Entered = { call: Call /** An event exists, and must be completed. */; opened: boolean };

/**
 * The way in, the same for endpoints and relays: the credential, the page it came from, and the event, whose opening says
 * who calls. Throws `two_credentials`, `origin_refused`, `unauthenticated`, and `StoreError` when nothing could be written.
 */
export async function enter(
  req: IncomingMessage,
  id: string,
  { path, query }: Target,
  door: Door,
  deps: Deps,
  address = clientAddress(req, deps.config.trustHops),
): Promise<Entered> {
  const credential = presentedCredential(req, door.parameters);
  // A page opens a WebSocket anywhere without asking first, so there the credential makes no difference.
  const unasked = door.access.open || credential?.ambient || req.headers.upgrade?.toLowerCase() === "websocket";
  if (door.writes && unasked) refuseForeignPage(req.headers, deps.config.allowedOrigins);
  const startedAt = new Date(deps.now());
  const call = (caller: Caller | null): Call => ({ id, startedAt, address, headers: req.headers, caller, deps });
  if (!door.audited) return { call: call(null), opened: false };

  const { endpoint } = door;
  const method = req.method ?? "";
  const opening = { id, startedAt, endpoint, method, path, query: withoutSecrets(query), address };
  const hash = credential && (await sessionHash(credential, startedAt, deps));
  const caller = hash ? await deps.ledger.open(opening, hash) : null;
  const named = credential?.username?.toLowerCase();
  const impostor = caller !== null && named !== undefined && named !== caller.username;
  if (caller && !impostor) return { call: call(caller), opened: true };
  if (!door.access.open) return { call: call(null), opened: impostor };
  if (!caller) await deps.ledger.openAnonymous(opening);
  return { call: call(null), opened: true };
}

/** The hash of the session that a credential stands for; a ticket is used up by asking. */
const sessionHash = ({ hash, ticket }: Credential, at: Date, { store }: Deps) =>
  ticket && hash ? tickets.redeem(store, hash, at) : hash;

/** Throws `unauthenticated` where the door is not open to callers without a credential. */
export function refuseAnonymous({ call }: Entered, door: Door): void {
  if (!call.caller && !door.access.open) throw new ApiError("unauthenticated");
}

export type Target = { path: string; query: string };

/** The two halves of a request target, as received. */
export function splitTarget(target: string): Target {
  const mark = target.indexOf("?");
  return mark < 0 ? { path: target, query: "" } : { path: target.slice(0, mark), query: target.slice(mark + 1) };
}
