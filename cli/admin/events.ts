import { EventView, eventView } from "../../lib/audit/view.ts";
import type { Deps } from "../../lib/deps.ts";
import * as events from "../../lib/repo/events.ts";
import * as users from "../../lib/repo/users.ts";
import { type Format, instantText, type Listing, printer } from "../print/printer.ts";
import { visible } from "../print/visible.ts";
import { requireUser } from "./account.ts";
import { follow } from "./follow.ts";
import { withDeps } from "./with-deps.ts";

const DEFAULT_LIMIT = { search: 100, follow: 10 };
const PAGE = 200;

type Options = Omit<events.EventFilter, "limit" | "ids" | "before" | "after"> & {
  format: Format;
  limit?: number;
  follow?: boolean;
  bodies?: boolean;
};
type Event = ReturnType<typeof eventView>;

/** Prints events that match, newest first; with `follow` oldest first, and then each one that ends, until SIGINT. */
export async function printEvents({
  format,
  follow: following = false,
  bodies = false,
  limit,
  ...given
}: Options): Promise<void> {
  await withDeps(async (deps) => {
    const filter = { ...given, user: given.user && (await requireUser(deps.store, given.user)).id };
    const names = new Map<string, string>();
    const print = printer(format, listing(names, bodies));
    const most = limit ?? DEFAULT_LIMIT[following ? "follow" : "search"];
    for await (const batch of following ? follow(deps, filter, most, untilStopped()) : pages(deps, filter, most)) {
      if (format === "table") await learn(names, batch, deps);
      print(batch.map((event) => shown(eventView(event, deps.now()), bodies)));
    }
  });
}

async function* pages({ store }: Deps, filter: Omit<events.EventFilter, "limit">, limit: number) {
  let before: string | undefined;
  for (let left = limit; left > 0; ) {
    const size = Math.min(left, PAGE);
    const page = await events.search(store, { ...filter, before, limit: size });
    if (page.length > 0 || before === undefined) yield page;
    if (page.length < size) return;
    left -= size;
    before = page.at(-1)?.id;
  }
}

/** Bodies that nobody asked for are left out, so that they are not mistaken for empty ones. */
function shown(event: Event, bodies: boolean): Event {
  if (bodies) return event;
  const { request_body: _request, response_body: _response, ...rest } = event;
  return rest as Event;
}

async function learn(names: Map<string, string>, batch: readonly events.EventRow[], { store }: Deps): Promise<void> {
  const unknown = new Set(batch.flatMap(({ userId }) => (userId === null || names.has(userId) ? [] : [userId])));
  for (const [id, name] of await users.usernamesOf(store, [...unknown])) names.set(id, name);
}

function untilStopped(): AbortSignal {
  const stopping = new AbortController();
  process.once("SIGINT", () => stopping.abort()).once("SIGTERM", () => stopping.abort());
  return stopping.signal;
}

const BODIES = ["request_body", "response_body"] as const;

function listing(names: ReadonlyMap<string, string>, bodies: boolean): Listing<Event> {
  return {
    fields: Object.keys(EventView.shape).filter((field) => bodies || !BODIES.includes(field as never)) as (keyof Event)[],
    columns: [
      { title: "TIME", text: (event) => instantText(event.started_at), whole: true },
      { title: "USER", text: (event) => names.get(event.user_id ?? "") ?? event.user_id },
      { title: "ENDPOINT", text: (event) => event.endpoint, spare: true },
      { title: "MODEL", text: (event) => event.model },
      { title: "STATUS", text: (event) => event.status ?? event.state, right: true },
      { title: "MS", text: (event) => event.duration_ms, right: true },
      { title: "TOKENS", text: tokens, right: true },
      { title: "ERROR", text: (event) => event.error_code },
      { title: "ADDRESS", text: (event) => event.address, spare: true },
      { title: "PATH", text: (event) => event.path + (event.query && `?${event.query}`) },
    ],
    below: (event) => (bodies ? BODIES.flatMap((field) => indented(field, event[field])) : []),
  };
}

/** `12+34`: prompt and completion; `~` where nobody counted them but us. */
function tokens({ prompt_tokens: prompt, completion_tokens: completion, tokens_estimated: estimated }: Event): string {
  return prompt === null ? "" : `${estimated ? "~" : ""}${prompt}+${completion ?? 0}`;
}

function indented(field: string, body: string | null): string[] {
  return body ? [`    ${field}:`, ...body.split(/\r?\n/).map((line) => `      ${visible(line)}`)] : [];
}
