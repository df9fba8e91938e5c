import { serveFunction } from "../../lib/http/entry.ts";
import { NEEDS } from "../../lib/needs.ts";

export const group = serveFunction({ needs: NEEDS.group, load: async () => (await import("./endpoints.ts")).group });
