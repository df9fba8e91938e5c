import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { check } from "./check.ts";

/** The function `mod`, as it is deployed. */
export const mod = { name: "mod", endpoints: [check], needs: ["upstream"] } as const satisfies FunctionSpec;
