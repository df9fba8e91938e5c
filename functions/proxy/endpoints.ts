import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { NEEDS } from "../../lib/needs.ts";
import { v1 } from "./v1.ts";

/** The function `proxy`, as it is deployed. */
export const proxy = { name: "proxy", endpoints: [v1], needs: NEEDS.proxy } as const satisfies FunctionSpec;
