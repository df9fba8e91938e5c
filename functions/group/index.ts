import { serveFunction } from "../../lib/http/entry.ts";
import { group as spec } from "./endpoints.ts";

export const group = serveFunction(spec);
