import { serveFunction } from "../../lib/http/entry.ts";
import { NEEDS } from "../../lib/needs.ts";

export const img = serveFunction({ needs: NEEDS.img, load: async () => (await import("./endpoints.ts")).img });
