import type * as z from "zod";
import type { Endpoint, FunctionSpec } from "./endpoint.ts";
import type { ApiError } from "./error.ts";

/** `chat.user.add` as a path has it: `chat/user/add`. */
type PathOf<Name> = Name extends `${infer First}.${infer Rest}` ? `${First}/${PathOf<Rest>}` : Name;

type Called<E> =
  // biome-ignore lint/suspicious/noExplicitAny: any endpoint, whatever its guard grants.
  E extends Endpoint<infer Name, infer Input, infer Output, any, infer At>
    ? At extends `${string}POST /${PathOf<Name>}`
      ? { name: Name; input: Input; output: Output }
      : // Its path is another's idea: OpenAI's, which has a client, or the caller's own.
        never
    : never;
type Endpoints<F extends FunctionSpec> = Called<F["endpoints"][number]>;
type Named<F extends FunctionSpec, Name> = Extract<Endpoints<F>, { name: Name }>;
type Envelope = ReturnType<ApiError["envelope"]>["error"];

/** A refusal, as the envelope has it. */
export class CallError extends Error {
  override readonly name = "CallError";
  readonly status: number;
  readonly code: string;
  readonly param: string | null;
  readonly requestId: string;
  constructor(status: number, { message, code, param, request_id }: Envelope) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.requestId = request_id;
  }
}

/** Calls an endpoint by its name. Throws `CallError`, or what `fetch` throws when there is no answer. */
export type Client<F extends FunctionSpec> = <Name extends Endpoints<F>["name"]>(
  name: Name,
  input: z.input<Named<F, Name>["input"]>,
) => Promise<z.output<Named<F, Name>["output"]>>;

/**
 * A client typed by the functions' own declarations: `createClient<typeof user>(url, token)("user.read", {})`. Only types are
 * imported, so it runs in a browser. It calls what answers POST at its name.
 */
export function createClient<F extends FunctionSpec>(baseUrl: string, token?: string): Client<F> {
  return async (name, input) => {
    const response = await fetch(`${baseUrl}/${name.replaceAll(".", "/")}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) },
      body: JSON.stringify(input),
    });
    const answer: unknown = await response.json();
    if (!response.ok) throw new CallError(response.status, (answer as { error: Envelope }).error);
    return answer as never;
  };
}
