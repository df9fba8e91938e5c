import { serveFunction } from "../../lib/http/entry.ts";
import { chat as spec } from "./endpoints.ts";

export const chat = serveFunction(spec);
