import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { NEEDS } from "../../lib/needs.ts";
import { check } from "./check.ts";

/** The function `mod`, as it is deployed. */
export const mod = { name: "mod", endpoints: [check], needs: NEEDS.mod } as const satisfies FunctionSpec;
