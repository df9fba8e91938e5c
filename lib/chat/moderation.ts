import type { Deps } from "../deps.ts";
import { ApiError } from "../http/error.ts";
import { flagsIn, type Moderation, moderate } from "../llm/moderation.ts";
import { describeError } from "../log.ts";
import { asking } from "./asking.ts";

type Said = { prompt: string; image: string | null };
type Needs = Pick<Deps, "upstream" | "random" | "config" | "log">;

/** How long a prompt waits for moderation. */
const PATIENCE_MS = 10_000;

/** The upstream's moderation of a text. Throws `upstream_…` where there is none. */
export const moderationOf = (deps: Pick<Deps, "upstream" | "random">, text: string): Promise<Moderation> =>
  asking(deps, (patience) => moderate(deps.upstream, { text, image: null }, patience));

/** Throws `content_flagged` for what moderation flags, where that is not to be sent, and `upstream_…` where nobody can tell. */
export async function refuseFlagged(deps: Needs, said: Said): Promise<void> {
  if (deps.config.chat.moderate !== "block") return;
  const flags = await flagsOf(deps, said);
  if (flags)
    throw new ApiError("content_flagged", { message: `Moderation flagged this (${flags.join(", ")}); it was not sent.` });
}

/** What moderation flags a prompt for, where that is to be marked: categories with commas between. It is no reason to fail. */
export async function markOf(deps: Needs, said: Said): Promise<string | null> {
  if (deps.config.chat.moderate !== "flag") return null;
  try {
    return (await flagsOf(deps, said))?.join(",") ?? null;
  } catch (error) {
    deps.log({ severity: "WARNING", message: "not moderated", ...describeError(error) });
    return null;
  }
}

const flagsOf = async (deps: Needs, { prompt: text, image }: Said): Promise<string[] | null> =>
  flagsIn(await asking(deps, (patience) => moderate(deps.upstream, { text, image }, patience), PATIENCE_MS));
