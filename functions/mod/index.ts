import { serveFunction } from "../../lib/http/entry.ts";
import { mod as spec } from "./endpoints.ts";

export const mod = serveFunction(spec);
