import * as z from "zod";
import { admin } from "../../lib/access.ts";
import { EventView, eventView } from "../../lib/audit/view.ts";
import { endpoint } from "../../lib/http/endpoint.ts";
import { id, instant, whole } from "../../lib/http/fields.ts";
import * as events from "../../lib/repo/events.ts";

const DEFAULT_LIMIT = 100;

export const listEvents = endpoint({
  name: "system.events",
  summary: "Search the audit log, newest first",
  route: "GET|POST /system/events",
  access: admin,
  input: z.object({
    user: id.optional(),
    group: id.optional(),
    chat: id.optional(),
    endpoint: z.string().max(64).optional(),
    model: z.string().max(128).optional(),
    status: whole(100, 599).optional(),
    since: instant.optional(),
    until: instant.optional(),
    text: z.string().min(3, "is shorter than 3 characters").max(256).optional(),
    cursor: id.optional(),
    limit: whole(1, 1_000).optional(),
  }),
  output: z.object({ events: z.array(EventView), next: z.string().nullable() }),
  errors: ["forbidden"],
  // Reading the log is itself logged, but not what was read: that is in it already.
  audit: "row",
  run: async ({ input: { cursor, limit = DEFAULT_LIMIT, ...filter }, deps: { store, now } }) => {
    const found = await events.search(store, { ...filter, before: cursor, limit: limit + 1 });
    const page = found.slice(0, limit);
    return {
      events: page.map((event) => eventView(event, now())),
      next: found.length > limit ? (page.at(-1)?.id ?? null) : null,
    };
  },
});
