import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { v1 } from "./v1.ts";

/** The function `proxy`, as it is deployed. */
export const proxy = { name: "proxy", endpoints: [v1], needs: ["upstream"] } as const satisfies FunctionSpec;
