import { setTimeout as sleep } from "node:timers/promises";
import type { Deps } from "../deps.ts";
import { ApiError } from "../http/error.ts";
import { flagsIn, type Moderation, moderate } from "../llm/moderation.ts";
import { describeError } from "../log.ts";
import { asking } from "./asking.ts";

type Said = { prompt: string; image: string | null };
type Needs = Pick<Deps, "upstream" | "random" | "config" | "log">;

/** How long a prompt waits for moderation before it is sent, and a reply that has ended for the mark on its prompt. */
const PATIENCE_MS = 10_000;
const MARK_PATIENCE_MS = 2_000;
const LATE = Symbol();

/** The upstream's moderation of a text. Throws `upstream_…` where there is none, and the reason of `gone`. */
export async function moderationOf(
  deps: Pick<Deps, "upstream" | "random">,
  text: string,
  gone: AbortSignal,
): Promise<Moderation> {
  const said = await asking(deps, (patience) => moderate(deps.upstream, { text, image: null }, patience), { gone });
  if (typeof said.id !== "string" || typeof said.model !== "string") throw new ApiError("upstream_garbled");
  return said;
}

/** Throws `content_flagged` for what moderation flags, where that is not to be sent, and `upstream_…` where nobody can tell. */
export async function refuseFlagged(deps: Needs, said: Said): Promise<void> {
  if (deps.config.chat.moderate !== "block") return;
  const flags = await flagsOf(deps, said);
  if (flags)
    throw new ApiError("content_flagged", { message: `Moderation flagged this (${flags.join(", ")}); it was not sent.` });
}

/** What moderation flags a prompt for, while its reply is made. */
export type Marking = {
  /** Its categories with commas between, or null, also where nobody could tell in time: that is no reason to fail. */
  mark(): Promise<string | null>;
};

/** Asks for the mark on a prompt, where prompts are marked. `signal`: the reply was broken off, and nobody waits. */
export function marking(deps: Needs, said: Said, signal?: AbortSignal): Marking {
  if (deps.config.chat.moderate !== "flag") return { mark: async () => null };
  const unknown = (error: unknown) => {
    deps.log({ severity: "WARNING", message: "not moderated", ...describeError(error) });
    return null;
  };
  const asked = flagsOf(deps, said).then((flags) => flags?.join(",") ?? null, unknown);
  return {
    mark: async () => {
      const mark = await Promise.race([asked, sleep(signal?.aborted ? 0 : MARK_PATIENCE_MS, LATE, { ref: false })]);
      return mark === LATE ? unknown(new Error("too late")) : mark;
    },
  };
}

const flagsOf = async (deps: Needs, { prompt: text, image }: Said): Promise<string[] | null> =>
  flagsIn(await asking(deps, (patience) => moderate(deps.upstream, { text, image }, patience), { patienceMs: PATIENCE_MS }));
