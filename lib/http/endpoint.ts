import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type * as z from "zod";
import type { Need } from "../config.ts";
import type { Deps } from "../deps.ts";
import type { Caller } from "../repo/ledger.ts";
import type { ErrorCode } from "./error.ts";

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
  /** Whom the event is about, where that is not who called: a sign-in's user. */
  concerns(userId: string): void;
};

export type Context<Input, Grant> = { grant: Grant; input: Input; call: Call; deps: Deps; reply: Reply };

type Method = "GET" | "POST" | "GET|POST";
export type Endpoint<Name extends string, Input extends z.ZodObject, Output extends z.ZodType, Grant> = {
  readonly kind: "endpoint";
  /** `function.verb`: its path with dots, its operation id, audit action and file. */
  readonly name: Name;
  readonly summary: string;
  readonly route: `${Method} /${string}`;
  readonly access: Guard<z.output<Input>, Grant>;
  readonly input: Input;
  /** Parsed before it is sent: a column that is not listed never leaves. */
  readonly output: Output;
  /** The refusals of its own, besides those that every endpoint has. */
  readonly errors?: readonly ErrorCode[];
  readonly audit: AuditDepth;
  /** The largest body, in bytes. */
  readonly bodyLimit: number;
  run(context: Context<z.output<Input>, Grant>): z.input<Output> | Promise<z.input<Output>>;
};

const BODY_LIMIT = 65_536;

/** Declares an endpoint. From the list of them come routes, 404 and 405, validation, OpenAPI, the client, audit and tests. */
export function endpoint<const Name extends string, Input extends z.ZodObject, Output extends z.ZodType, Grant>(
  spec: Omit<Endpoint<Name, Input, Output, Grant>, "kind" | "audit" | "bodyLimit"> & { audit?: AuditDepth; bodyLimit?: number },
): Endpoint<Name, Input, Output, Grant> {
  return { kind: "endpoint", audit: "bodies", bodyLimit: BODY_LIMIT, ...spec };
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

/** A function as it is deployed: its name is the first segment of its paths. */
export type FunctionSpec = {
  readonly name: string;
  readonly endpoints: readonly (AnyEndpoint | Relay)[];
  /** What it uses besides the store. */
  readonly needs?: readonly Need[];
};

export const isRelay = (entry: AnyEndpoint | Relay): entry is Relay => entry.kind === "relay";

/** The methods and the path of a route. */
export function parseRoute(route: AnyEndpoint["route"]): { methods: ("GET" | "POST")[]; path: string } {
  const space = route.indexOf(" ");
  return { methods: route.slice(0, space).split("|") as ("GET" | "POST")[], path: route.slice(space + 1) };
}

/** An endpoint that only reads answers GET too; what writes takes POST alone. */
export const writes = (entry: AnyEndpoint): boolean => entry.route.startsWith("POST ");
