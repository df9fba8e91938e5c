import { serveFunction } from "../../lib/http/entry.ts";
import { img as spec } from "./endpoints.ts";

export const img = serveFunction(spec);
