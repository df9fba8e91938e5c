import { serveFunction } from "../../lib/http/entry.ts";
import { NEEDS } from "../../lib/needs.ts";

export const system = serveFunction({ needs: NEEDS.system, load: async () => (await import("./endpoints.ts")).system });
