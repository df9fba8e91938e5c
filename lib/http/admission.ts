import type { IncomingMessage } from "node:http";
import type { Deps } from "../deps.ts";
import { clientAddress } from "./address.ts";
import { enter, refuseAnonymous, type Target } from "./door.ts";
import { type AnyEndpoint, type AnyStream, type Call, isStream, writes } from "./endpoint.ts";
import { type EventSoFar, subjectOf } from "./event.ts";
import { bodyType, parseForm, parseInput, parseJson, readBody } from "./input.ts";

export type Asked = {
  req: IncomingMessage;
  id: string;
  target: Target;
  /** The parameters of the path. */
  parameters: Record<string, string>;
  deps: Deps;
};
// biome-ignore lint/suspicious/noExplicitAny: input and grant are what the entry's own types say.
export type Admitted = { call: Call; input: any; grant: any };

/**
 * What comes before a request is served, for endpoints and streams alike: origin and caller, size, parse, admit. Whatever is
 * found out on the way stands in the event, also where a refusal is thrown.
 */
export async function admitted(
  entry: AnyEndpoint | AnyStream,
  { req, id, target, parameters, deps }: Asked,
  event: EventSoFar,
): Promise<Admitted> {
  event.keepsBodies = entry.audit === "bodies";
  // A body that is given up takes its connection, and with it the address, along.
  const address = clientAddress(req, deps.config.trustHops);
  const ahead = isStream(entry) ? await readAhead(req, entry.bodyLimit) : null;
  const door = {
    endpoint: entry.name,
    access: entry.access,
    writes: writes(entry) || req.headers.upgrade?.toLowerCase() === "websocket",
    audited: entry.audit !== "none",
    ...(ahead && { parameters: tokensIn(req, target.query, ahead) }),
  };
  const entered = await enter(req, id, target, door, deps, address);
  const { call } = entered;
  if (entered.opened) event.call = call;
  event.known.userId = call.caller?.userId ?? null;
  refuseAnonymous(entered, door);
  const raw = ahead ? ahead() : await readBody(req, entry.bodyLimit);
  const type = raw.length > 0 ? bodyType(req) : "form";
  const input = parseInput(entry.input, parameters, target.query, raw, type, isStream(entry) ? undefined : entry.bodyKeys);
  if (!isStream(entry) && entry.offTheRecord?.(input)) event.keepsBodies = false;
  if (event.keepsBodies) event.requestBody = JSON.stringify(input);
  const grant = await entry.access.admit(call, input);
  event.known.subject = subjectOf(grant);
  return { call, input, grant };
}

/** A body, or what its reading failed with. */
type Body = () => Buffer;

/** A stream's caller may be named in its body, so that is read before anyone knows who they are. */
async function readAhead(req: IncomingMessage, limit: number): Promise<Body> {
  try {
    const body = await readBody(req, limit);
    return () => body;
  } catch (error) {
    return () => {
      throw error;
    };
  }
}

/** The tokens and tickets that query and body name. In what cannot be read there are none; it is refused for that later. */
function tokensIn(req: IncomingMessage, query: string, body: Body): string[] {
  const found: string[] = [];
  for (const read of [() => parseForm(query), () => fieldsOf(req, body())]) {
    try {
      const fields = read();
      found.push(...(fields.get("token") ?? []), ...(fields.get("ticket") ?? []));
    } catch {}
  }
  return found;
}

function fieldsOf(req: IncomingMessage, body: Buffer): Map<string, string[]> {
  if (body.length === 0) return new Map();
  const type = bodyType(req);
  const text = body.toString();
  if (type === "form" && !text.trimStart().startsWith("{")) return parseForm(text);
  const entries = Object.entries(parseJson(text)).filter((entry): entry is [string, string] => typeof entry[1] === "string");
  return new Map(entries.map(([name, value]) => [name, [value]]));
}
