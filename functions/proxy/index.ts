import { serveFunction } from "../../lib/http/entry.ts";
import { NEEDS } from "../../lib/needs.ts";

export const proxy = serveFunction({ needs: NEEDS.proxy, load: async () => (await import("./endpoints.ts")).proxy });
