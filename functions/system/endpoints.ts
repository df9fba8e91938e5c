import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { listEvents } from "./events.ts";

/** The function `system`, as it is deployed. */
export const system = { name: "system", endpoints: [listEvents] } as const satisfies FunctionSpec;
