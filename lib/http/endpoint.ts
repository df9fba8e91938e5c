import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import type { Need } from "../needs.ts";
import type { Caller, Outcome, Subject } from "../repo/ledger.ts";
import { ApiError, type ErrorCode } from "./error.ts";
import type { Viewer } from "./viewer.ts";

/** One request, from the moment its route is known. */
export type Call = {
  /** The request's id and its event's: a UUIDv7. */
  readonly id: string;
  readonly startedAt: Date;
  /** The client's address. */
  readonly address: string;
  readonly headers: IncomingMessage["headers"];
  /** Who calls, when a valid credential was sent. */
  readonly caller: Caller | null;
  readonly deps: Deps;
};

/** Who calls. Throws `unauthenticated` where nobody says who they are. */
export function callerOf({ caller }: Call): Caller {
  if (!caller) throw new ApiError("unauthenticated");
  return caller;
}

/** Who may call, as a value: `admit` answers what it loaded, or throws the refusal. All of them stand in `lib/access.ts`. */
export type Guard<Input = unknown, Grant = unknown> = {
  readonly name: string;
  /** True when a caller without credentials is let in. */
  readonly open?: boolean;
  admit(call: Call, input: Input): Grant | Promise<Grant>;
};

/** What the audit log keeps: the row with its bodies, the row alone (where bodies hold secrets), or no row. */
export type AuditDepth = "bodies" | "row" | "none";

/** What a handler may do to its answer and its event besides the body. */
export type Reply = {
  /** Stores a session's token in the browser's cookie; an empty one forgets it. */
  sessionCookie(token: string, seconds: number): void;
  /** Says where the rest of a bare list is: at the same address with this cursor (RFC 8288, `rel="next"`). */
  next(cursor: string): void;
  /** What the event is about, where the grant does not say it: a sign-in's user, a chat that was made. */
  concerns(subject: Subject): void;
  /** What the upstream said of its work, for the event: the model, the tokens used, its id for the request. */
  account(known: Partial<Pick<Outcome, "model" | "usage" | "upstreamRequestId">>): void;
  /** Aborted, with `client_closed`, when the client leaves before its answer has ended. */
  readonly gone: AbortSignal;
  /**
   * The answer as server-sent events, where the endpoint `streams` and the client prefers them; else null. The first frame
   * sent makes it one, and from then on `run`'s result goes to the audit log alone.
   */
  readonly stream: Viewer | null;
};

export type Context<Input, Grant> = { grant: Grant; input: Input; call: Call; deps: Deps; reply: Reply };

type Method = "GET" | "POST" | "GET|POST";
export type Route = `${Method} /${string}`;
export type Endpoint<
  Name extends string,
  Input extends z.ZodObject,
  Output extends z.ZodType,
  Grant,
  At extends Route = Route,
> = {
  readonly kind: "endpoint";
  /** `function.verb`: its operation id, audit action and file; where the wire leaves that free, its path with dots as well. */
  readonly name: Name;
  readonly summary: string;
  /** A segment such as `:id` is that field of the input. */
  readonly route: At;
  /** True where its path is also served without the function's name in front, beside other functions. */
  readonly bare?: boolean;
  readonly access: Guard<z.output<Input>, Grant>;
  readonly input: Input;
  /** Parsed before it is sent: a column that is not listed never leaves. */
  readonly output: Output;
  /** The refusals of its own, besides those that every endpoint has. */
  readonly errors?: readonly ErrorCode[];
  readonly audit: AuditDepth;
  /** True for an input whose content is kept in no event. */
  readonly offTheRecord?: (input: z.output<Input>) => boolean;
  /** The largest body, in bytes. */
  readonly bodyLimit: number;
  /** The most values in a JSON body, where that is not the usual. */
  readonly bodyKeys?: number;
  /** True where a client that prefers `text/event-stream` gets the answer as it comes into being; or the input that asks for it. */
  readonly streams?: true | ((input: z.output<Input>) => boolean);
  run(context: Context<z.output<Input>, Grant>): z.input<Output> | Promise<z.input<Output>>;
};

const BODY_LIMIT = 65_536;

/** Declares an endpoint. From the list of them come routes, 404 and 405, validation, OpenAPI, the client, audit and tests. */
export function endpoint<
  const Name extends string,
  Input extends z.ZodObject,
  Output extends z.ZodType,
  Grant,
  const At extends Route,
>(
  spec: Omit<Endpoint<Name, Input, Output, Grant, At>, "kind" | "audit" | "bodyLimit"> & {
    audit?: AuditDepth;
    bodyLimit?: number;
  },
): Endpoint<Name, Input, Output, Grant, At> {
  return { kind: "endpoint", audit: "bodies", bodyLimit: BODY_LIMIT, ...spec };
}

export type Watch<Input, Grant> = { grant: Grant; input: Input; call: Call; deps: Deps; viewer: Viewer };

/** A stream of frames that goes on until somebody ends it: server-sent events, or a WebSocket on the same URL. */
export type Stream<Name extends string, Input extends z.ZodObject, Grant> = {
  readonly kind: "stream";
  readonly name: Name;
  readonly summary: string;
  /** A path without parameters. */
  readonly route: Route;
  readonly access: Guard<z.output<Input>, Grant>;
  /** `after`, the id of the last frame that the client has, is added to it. */
  readonly input: Input;
  readonly errors?: readonly ErrorCode[];
  /** A stream's content is in no event: it was somebody else's request that made it. */
  readonly audit: "row";
  readonly bodyLimit: number;
  /**
   * Attaches a viewer, and resolves to what detaches them, which is called once, when the stream is over. Nothing has been
   * answered until it resolves: what it throws is the answer, and what it sends is queued, so it must not wait for `onDrain`.
   */
  open(watch: Watch<z.output<Input>, Grant>): Promise<() => void>;
};

/** What a client says of the last frame that it has. */
const after = z.string().max(256, "is longer than 256 characters").optional();

/** Declares a stream. A token or ticket in the query or the body of such a route is a credential; nowhere else it is. */
export function stream<const Name extends string, Input extends z.ZodObject, Grant>(
  spec: Omit<Stream<Name, Input, Grant>, "kind" | "audit" | "bodyLimit"> & { bodyLimit?: number },
): Stream<Name, Input, Grant> {
  const input = spec.input.extend({ after }) as unknown as Input;
  return { kind: "stream", audit: "row", bodyLimit: BODY_LIMIT, ...spec, input };
}

/** A raw request below a relay's prefix; `target` is the request target from the prefix on, as received. */
export type RawRequest = { relay: Relay; target: string; req: IncomingMessage; deps: Deps };

/** A subtree that is passed on as it is, on the raw request and response: nothing of it is parsed, in either direction. */
export type Relay = {
  readonly kind: "relay";
  readonly name: string;
  readonly summary: string;
  /** The subtree, ending in a slash: `/v1/`. Also served below the function's own name. */
  readonly prefix: `/${string}/`;
  readonly access: Guard;
  /** Answers, and never rejects. */
  request(raw: RawRequest, res: ServerResponse): Promise<void>;
  /** The same for a request to speak another protocol. */
  upgrade(raw: RawRequest, socket: Duplex, head: Buffer): Promise<void>;
};

export const relay = (spec: Omit<Relay, "kind">): Relay => ({ kind: "relay", ...spec });

// The one place where an endpoint's own types are forgotten: a list of endpoints is heterogeneous.
// biome-ignore lint/suspicious/noExplicitAny: a handler's input and grant are contravariant.
export type AnyEndpoint = Endpoint<string, any, any, any>;
// biome-ignore lint/suspicious/noExplicitAny: the same.
export type AnyStream = Stream<string, any, any>;
export type Entry = AnyEndpoint | AnyStream | Relay;

/** A function as it is deployed: its name is the first segment of its paths. */
export type FunctionSpec = {
  readonly name: string;
  readonly endpoints: readonly Entry[];
  /** What it uses besides the store. */
  readonly needs?: readonly Need[];
};

export const isEndpoint = (entry: Entry): entry is AnyEndpoint => entry.kind === "endpoint";
export const isStream = (entry: Entry): entry is AnyStream => entry.kind === "stream";
export const isRelay = (entry: Entry): entry is Relay => entry.kind === "relay";

/** The methods and the path of a route. */
export function parseRoute(route: Route): { methods: ("GET" | "POST")[]; path: string } {
  const space = route.indexOf(" ");
  return { methods: route.slice(0, space).split("|") as ("GET" | "POST")[], path: route.slice(space + 1) };
}

/** An endpoint that only reads answers GET too; what writes takes POST alone. */
export const writes = (entry: AnyEndpoint | AnyStream): boolean => entry.route.startsWith("POST ");
