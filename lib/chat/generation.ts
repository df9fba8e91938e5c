import type { Deps } from "../deps.ts";
import { type CompletionEnd, type CompletionMessage, complete } from "../llm/completion.ts";
import { CompletionError } from "../llm/retry.ts";
import { estimateTokens } from "../llm/tokens.ts";
import { describeError } from "../log.ts";
import type { Pair } from "../repo/claims.ts";
import { prune } from "../repo/expiry.ts";
import type { Outcome } from "../repo/ledger.ts";
import * as messages from "../repo/messages.ts";
import { storeError } from "../store/store.ts";
import { contextOf, pairTokens } from "./context.ts";
import { withImages, withoutImages } from "./images.ts";
import { marking } from "./moderation.ts";
import type { Claimed } from "./prompting.ts";
import { createPublisher, type Publisher } from "./publisher.ts";

/** How often the end of a reply is tried while the store is down. */
const STORE_RETRY_MS = [100, 300, 1_000, 2_000, 3_000];
/** How many expired messages are deleted on the way. */
const FORGOTTEN_AT_ONCE = 100;
/** How often the store is asked whether to stop, while the bus cannot tell. */
const ASK_STORE_MS = 2_000;

/** What a reply was asked with. */
export type Asked = {
  claimed: Claimed;
  options?: Record<string, unknown> | undefined;
  /** Whether those who watch get the text as it comes. */
  partial: boolean;
  /** Hears the text as it comes. */
  onText?: (text: string) => void;
  /** Hears what the event is to say of the upstream's work, also where nothing comes of it. */
  account(known: Pick<Outcome, "model" | "usage" | "upstreamRequestId">): void;
};
/** The message as it was stored; null where it was deleted meanwhile. */
export type Generated = {
  message: messages.MessageView | null;
  /** Why the model ended, in the upstream's word. */
  finishReason: string | null;
  /** How long the upstream wants to be left alone. */
  retryAfterSeconds: number | undefined;
};

/** The replies that are being made on this instance. */
export type Generations = {
  /** Makes a reply, from the context to the stored message. Throws `StoreError` where it could not be stored. */
  run(asked: Asked): Promise<Generated>;
  /** Stops a reply, if it is made here. */
  stop(requestId: string, userId: string): void;
  /** Ends what is still running after so long, keeping what came of it: the instance stops. */
  endWithin(deadlineMs: number): void;
};

/** Why a reply is broken off. */
class Stop extends Error {
  readonly userId: string | null;
  constructor(userId: string | null) {
    super(userId === null ? "the instance stops" : "stopped");
    this.userId = userId;
  }
}

type Needs = Pick<Deps, "bus" | "store" | "log" | "now" | "random" | "config" | "upstream">;
type Working = Asked & { text: string; signal: AbortSignal; publisher: Publisher };
type Ended = { end: CompletionEnd | null; error: unknown };

export function createGenerations(deps: Needs): Generations {
  const running = new Map<string, AbortController>();
  return {
    run: async (asked) => {
      const { message } = asked.claimed;
      const controller = new AbortController();
      running.set(message.requestId, controller);
      const publisher = createPublisher(
        deps,
        message,
        asked.partial,
        (userId) => controller.abort(new Stop(userId)),
        () =>
          messages.find(deps.store, message).then(
            (found) => found?.requestId === message.requestId,
            () => true,
          ),
      );
      const asking = setInterval(() => {
        if (publisher.unheard) void askStore(deps, message, controller);
      }, ASK_STORE_MS).unref();
      try {
        return await generate(deps, { ...asked, text: "", signal: controller.signal, publisher });
      } finally {
        publisher.close();
        clearInterval(asking);
        running.delete(message.requestId);
      }
    },
    stop: (requestId, userId) => running.get(requestId)?.abort(new Stop(userId)),
    endWithin: (deadlineMs) => {
      setTimeout(() => {
        for (const controller of running.values()) controller.abort(new Stop(null));
      }, deadlineMs).unref();
    },
  };
}

async function generate(deps: Needs, work: Working): Promise<Generated> {
  const { claimed, publisher } = work;
  const { message, image } = claimed;
  const marked = marking(deps, { prompt: message.prompt, image }, work.signal);
  const { ended, tokens } = await askInContext(deps, work);
  const usage = usageOf(ended, tokens, work.text);
  const failure = ended.error instanceof CompletionError ? ended.error : null;
  work.account({
    model: ended.end?.model ?? modelOf(deps, message.model),
    usage,
    upstreamRequestId: ended.end?.upstreamRequestId ?? failure?.upstreamRequestId ?? null,
  });
  const stored = await store(deps, work, endingOf(ended, work, usage, await marked.mark()));
  await Promise.all([publisher.end(stored), forgetExpired(deps)]);
  return {
    message: stored,
    finishReason: ended.end?.finishReason ?? null,
    retryAfterSeconds: failure?.retryAfterSeconds,
  };
}

/**
 * Asks with what was said before. An image of then may be gone by now, or this model take none; so that it does not stand in the
 * way of all that is still to be said, a prompt that is refused with such images is asked once more without.
 */
async function askInContext(deps: Needs, work: Working): Promise<{ ended: Ended; tokens: number }> {
  const { message, chat, systemPrompt, image, pairs } = work.claimed;
  const asking = async (pairs: readonly Pair[]) => {
    const said = { systemPrompt, pairs, prompt: message.prompt, image, username: message.username, shared: chat.shared };
    const { turns, tokens } = contextOf({ ...said, budget: deps.config.chat.contextTokens });
    const showsEarlier = turns.slice(0, -1).some(({ content }) => typeof content !== "string");
    return { ended: await ask(deps, work, turns), tokens, showsEarlier };
  };
  const shown = await withImages(deps.store, pairs).catch((error) => {
    deps.log({ severity: "WARNING", message: "earlier images not read", code: storeError(error)?.code });
    return withoutImages(pairs);
  });
  const { showsEarlier, ...asked } = await asking(shown);
  const { error } = asked.ended;
  const refused = error instanceof CompletionError && error.code === "upstream_refused" && work.text === "";
  return refused && showsEarlier ? asking(withoutImages(pairs)) : asked;
}

/** Reads the model's answer to its end, whatever that is. */
async function ask(deps: Needs, work: Working, turns: CompletionMessage[]): Promise<Ended> {
  const { claimed, options, signal } = work;
  try {
    const model = modelOf(deps, claimed.message.model);
    const random = () => deps.random(4).readUInt32BE() / 2 ** 32;
    const answer = complete(deps.upstream, { model, messages: turns, signal, random, ...(options && { options }) });
    for (;;) {
      const { done, value } = await answer.next();
      if (done) return { end: value, error: null };
      work.text += value;
      work.publisher.add(value);
      work.onText?.(value);
    }
  } catch (error) {
    const known = error instanceof CompletionError || signal.aborted;
    if (!known) deps.log({ severity: "ERROR", message: "reply failed", ...describeError(error) });
    return { end: null, error: signal.aborted ? signal.reason : error };
  }
}

/** What the upstream reported, or an estimate of what it took where it did not come to that. */
function usageOf({ end, error }: Ended, promptTokens: number, text: string): Outcome["usage"] {
  if (end?.usage) return end.usage;
  if (error && text === "") return null;
  return { promptTokens, completionTokens: estimateTokens(text), estimated: true };
}

function endingOf(
  { error }: Ended,
  { claimed: { message, image }, text: reply }: Working,
  usage: Outcome["usage"],
  flagged: string | null,
): messages.Ending {
  const stopped = error instanceof Stop && error.userId !== null;
  const state = error === null ? "done" : stopped ? "stopped" : "failed";
  return {
    state,
    reply,
    contextTokens: state === "failed" || reply === "" ? null : pairTokens(message.prompt, image, reply),
    promptTokens: usage?.promptTokens ?? null,
    completionTokens: usage?.completionTokens ?? null,
    stoppedBy: stopped ? error.userId : null,
    errorCode: state === "failed" ? codeOf(error) : null,
    flagged,
  };
}

function codeOf(error: unknown): string {
  if (error instanceof Stop) return "stopping";
  return error instanceof CompletionError ? error.code : "internal";
}

/** Nothing that was said is given up before the store had some seconds to come back; then those who settle it have it from the log. */
async function store(
  deps: Needs,
  { claimed, publisher }: Working,
  ending: messages.Ending,
): Promise<messages.MessageView | null> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await messages.end(deps.store, claimed.message, ending, new Date(deps.now()));
    } catch (error) {
      publisher.reveal();
      const waitMs = STORE_RETRY_MS[attempt];
      if (waitMs === undefined || !storeError(error) || storeError(error)?.permanent) throw error;
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }
}

/** Some of what has expired goes with each reply. What fails here is done with another one, or by the administrator. */
async function forgetExpired({ store, log }: Needs): Promise<void> {
  try {
    await prune(store, FORGOTTEN_AT_ONCE);
  } catch (error) {
    log({ severity: "WARNING", message: "expired messages not deleted", code: storeError(error)?.code });
  }
}

async function askStore(deps: Needs, claim: messages.MessageView, controller: AbortController): Promise<void> {
  try {
    const found = await messages.find(deps.store, claim);
    const isGone = found?.requestId !== claim.requestId;
    if (isGone || found.stoppedBy) controller.abort(new Stop(isGone ? null : found.stoppedBy));
  } catch (error) {
    deps.log({ severity: "WARNING", message: "not known whether to stop", code: storeError(error)?.code });
  }
}

const modelOf = ({ config }: Pick<Needs, "config">, name: string): string => config.chat.aliases.get(name) ?? name;
