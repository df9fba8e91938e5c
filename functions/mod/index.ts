import { serveFunction } from "../../lib/http/entry.ts";
import { NEEDS } from "../../lib/needs.ts";

export const mod = serveFunction({ needs: NEEDS.mod, load: async () => (await import("./endpoints.ts")).mod });
