import { serveFunction } from "../../lib/http/entry.ts";
import { NEEDS } from "../../lib/needs.ts";

export const user = serveFunction({ needs: NEEDS.user, load: async () => (await import("./endpoints.ts")).user });
