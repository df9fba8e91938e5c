import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { converse } from "./converse.ts";
import { describe } from "./describe.ts";

/** The function `img`, as it is deployed. */
export const img = { name: "img", endpoints: [describe, converse], needs: ["upstream", "bus"] } as const satisfies FunctionSpec;
