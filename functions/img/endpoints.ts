import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { NEEDS } from "../../lib/needs.ts";
import { converse } from "./converse.ts";
import { describe } from "./describe.ts";

/** The function `img`, as it is deployed. */
export const img = { name: "img", endpoints: [describe, converse], needs: NEEDS.img } as const satisfies FunctionSpec;
