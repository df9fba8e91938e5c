import { clipText } from "../audit/clip.ts";
import { outcomeOf } from "../audit/outcome.ts";
import type { Outcome, Subject } from "../repo/ledger.ts";
import type { Call } from "./endpoint.ts";

/** A request's event so far; `call` where one was opened, and must be completed. */
export type EventSoFar = { call: Call | null; keepsBodies: boolean; requestBody: string | null; known: Partial<Outcome> };

export const newEvent = (): EventSoFar => ({ call: null, keepsBodies: false, requestBody: null, known: {} });

/** Writes how a request ended, where it has an event. */
export async function complete(
  { call, keepsBodies, requestBody, known }: EventSoFar,
  ended: Pick<Outcome, "status" | "errorCode">,
  responseBody: string | null,
): Promise<void> {
  if (!call) return;
  const { bodyBytes } = call.deps.config.audit;
  const kept = (text: string | null) => (text === null || bodyBytes === 0 ? null : clipText(text, bodyBytes));
  const bodies = { requestBody: kept(requestBody), responseBody: keepsBodies ? kept(responseBody) : null };
  await call.deps.ledger.close(call.id, outcomeOf(call, { ...ended, ...known, ...bodies }));
}

/** What a grant says that the event is about. */
export function subjectOf(
  grant: { group?: { id: string }; chat?: { id: string; groupId: string | null } } | null,
): Subject | null {
  const { group, chat } = grant ?? {};
  const groupId = group?.id ?? chat?.groupId;
  if (!groupId && !chat) return null;
  return { ...(groupId && { groupId }), ...(chat && { chatId: chat.id }) };
}
