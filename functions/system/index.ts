import { serveFunction } from "../../lib/http/entry.ts";
import { system as spec } from "./endpoints.ts";

export const system = serveFunction(spec);
