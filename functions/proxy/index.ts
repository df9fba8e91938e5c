import { serveFunction } from "../../lib/http/entry.ts";
import { proxy as spec } from "./endpoints.ts";

export const proxy = serveFunction(spec);
