import { serveFunction } from "../../lib/http/entry.ts";
import { user as spec } from "./endpoints.ts";

export const user = serveFunction(spec);
