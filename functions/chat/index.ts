import { serveFunction } from "../../lib/http/entry.ts";
import { NEEDS } from "../../lib/needs.ts";

export const chat = serveFunction({ needs: NEEDS.chat, load: async () => (await import("./endpoints.ts")).chat });
